//! `cargo xtask tidy`: the rules of CONTRIBUTING.md that no compiler knows. Also a test, so that `cargo test` holds them.

mod claims;
mod files;
mod manifests;
mod sizes;
mod snippets;
mod source;

use crate::Result;
use crate::workspace::Workspace;

/// Prints sizes and counts, then fails with the list of broken rules, if there are any.
pub(crate) fn run(workspace: &Workspace) -> Result {
    println!("{}", sizes::report(workspace)?);
    let broken = check(workspace)?;
    if broken.is_empty() {
        println!("tidy: no rule is broken");
        return Ok(());
    }
    for line in &broken {
        eprintln!("{line}");
    }
    Err(format!("{} rules broken", broken.len()).into())
}

/// Every broken rule, one a line, with the file that breaks it.
fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut broken = manifests::check(workspace)?;
    broken.extend(files::check(workspace)?);
    broken.extend(snippets::check(&workspace.root)?);
    broken.extend(claims::check(&workspace.root)?);
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_breaks_no_rule() {
        let broken = check(&Workspace::load().unwrap()).unwrap();
        assert!(broken.is_empty(), "\n{}", broken.join("\n"));
    }
}

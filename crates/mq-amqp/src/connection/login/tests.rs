//! What goes to the broker, however the client cuts what it writes.

use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("small");
    [&[kind, 0, 0], &size.to_be_bytes()[..], payload, &[0xCE]].concat()
}

/// `start-ok` with a table that has the placeholder's text too.
fn start_ok(user: &str, password: &str) -> Vec<u8> {
    let answer = format!("\0{user}\0{password}");
    let table = format!("name S \0{user}\0{PLACEHOLDER}");
    let length = |text: &str| u32::try_from(text.len()).expect("small").to_be_bytes();
    let payload = [
        START_OK,
        &length(&table),
        table.as_bytes(),
        b"\x05PLAIN",
        &length(&answer),
        answer.as_bytes(),
        b"\x05en_US",
    ];
    frame(1, &payload.concat())
}

fn conversation(user: &str, password: &str) -> Vec<u8> {
    let tune_ok = frame(1, &[0, 10, 0, 31, 1, 2, 3]);
    let start_ok = start_ok(user, password);
    // A heartbeat, which is no method, and what follows after the login.
    [b"AMQP\0\0\x09\x01", &frame(8, b"")[..], &start_ok, &tune_ok].concat()
}

#[test]
fn the_password_is_in_the_answer_and_nothing_else_changes() {
    for password in [
        "guest",
        "",
        "longer than the placeholder, with ünïcode and \0",
        PLACEHOLDER,
    ] {
        let (written, expected) = (conversation("u", PLACEHOLDER), conversation("u", password));
        for chunk in [1, 2, 7, 11, 64, written.len()] {
            let (mut login, mut out) = (Login::new("u", password), Vec::new());
            for bytes in written.chunks(chunk) {
                login.pass(bytes, &mut out);
            }
            assert!(login.is_done());
            assert!(out == expected, "{password:?} in chunks of {chunk}");
        }
    }
}

#[test]
fn what_is_no_login_passes() {
    let (mut login, mut out) = (Login::new("u", "secret"), Vec::new());
    // A client that closes before it has logged in.
    let written = [b"AMQP\0\0\x09\x01", &frame(1, &[0, 10, 0, 50, 9])[..]].concat();
    login.pass(&written, &mut out);
    assert!(out == written && !login.is_done());
    let other = start_ok("another user", PLACEHOLDER);
    login.pass(&other, &mut out);
    assert!(login.is_done() && out.ends_with(&other));
}

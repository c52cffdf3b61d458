//! Whether sockets of this process are left. Looked up in `/proc`; where there is none, nothing is
//! found, and what the proxy counts has to do.

use std::{collections::BTreeSet, fs, net::SocketAddr};

/// The sockets of this process that were connected to some addresses.
#[derive(Debug, Default)]
pub(super) struct Sockets(BTreeSet<String>);

impl Sockets {
    /// Notes those that are connected now.
    pub(super) fn look(&mut self, peer: SocketAddr) {
        let port = format!(":{:04X}", peer.port());
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
        let open = open();
        let seen = table.lines().filter_map(|line| {
            let mut columns = line.split_whitespace().skip(2);
            let remote = columns.next()?;
            let inode = columns.nth(6)?;
            (remote.ends_with(&port) && open.contains(inode)).then(|| inode.to_owned())
        });
        self.0.extend(seen);
    }

    pub(super) fn seen(&self) -> usize {
        self.0.len()
    }

    /// How many of those that were noted are still open.
    pub(super) fn left(&self) -> usize {
        let open = open();
        self.0.iter().filter(|inode| open.contains(*inode)).count()
    }
}

/// The inodes of all sockets of this process.
fn open() -> BTreeSet<String> {
    let Ok(files) = fs::read_dir("/proc/self/fd") else {
        return BTreeSet::new();
    };
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .filter_map(|to| {
            let to = to.to_str()?.strip_prefix("socket:[")?;
            Some(to.strip_suffix(']')?.to_owned())
        })
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_left_until_it_is_closed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = listener.local_addr().expect("its address");
        let stream = std::net::TcpStream::connect(peer).expect("connected");
        let mut sockets = Sockets::default();
        sockets.look(peer);
        assert_eq!((sockets.seen(), sockets.left()), (1, 1));
        drop(stream);
        assert_eq!(sockets.left(), 0);
    }
}

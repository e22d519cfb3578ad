//! A real WebSocket server: Python's `websockets`, with the paths that `websocket_server.py` tells of.

use std::{net::SocketAddr, path::PathBuf};

use super::{Server, free_port, scratch, write};

/// Debian's own Python, which has Debian's packages; another one in the search path has not.
const PYTHON: &str = "/usr/bin/python3";

/// A running server.
pub struct WebSocketServer {
    /// The process.
    pub server: Server,
    /// Where it listens without TLS.
    pub address: SocketAddr,
    /// Where it listens with TLS.
    pub tls: SocketAddr,
    /// The certificate of the TLS listener, self-signed for `localhost`.
    pub certificate: PathBuf,
}

impl WebSocketServer {
    /// Starts one.
    pub fn start() -> Self {
        let dir = scratch();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("a certificate can be made");
        let certificate = write(dir.path(), "cert.pem", &made.cert.pem());
        let key = write(dir.path(), "key.pem", &made.signing_key.serialize_pem());
        let script = write(dir.path(), "server.py", include_str!("websocket_server.py"));
        let (port, tls_port) = (free_port(), free_port());
        let plain = |path: &PathBuf| path.to_str().expect("a plain path").to_owned();
        let args = [plain(&script), port.to_string(), tls_port.to_string(), plain(&certificate), plain(&key)];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let server = Server::start("python3-websockets", PYTHON, &args, dir, address);
        Self { server, address, tls: SocketAddr::from(([127, 0, 0, 1], tls_port)), certificate }
    }
}

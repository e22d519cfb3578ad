//! A real mosquitto, and the little of MQTT 3.1.1 that a stranger needs to publish there.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
};

use super::{Server, free_port, scratch, write};

/// A running mosquitto.
pub struct Mosquitto {
    /// The process.
    pub server: Server,
    /// Where it listens without TLS.
    pub address: SocketAddr,
    /// Where it listens with TLS.
    pub tls: SocketAddr,
    /// The certificate of the TLS listener, self-signed for `localhost`.
    pub certificate: PathBuf,
}

/// Who may log in.
#[derive(Clone, Copy)]
pub enum Users<'a> {
    /// Anybody.
    Anyone,
    /// These, by name and password; nobody else.
    Named(&'a [(&'a str, &'a str)]),
}

impl Mosquitto {
    /// Starts one with these users and further lines of configuration.
    pub fn start(users: Users<'_>, more: &str) -> Self {
        let dir = scratch();
        let (port, tls_port) = (free_port(), free_port());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("a certificate can be made");
        let certificate = write(dir.path(), "cert.pem", &made.cert.pem());
        let key = write(dir.path(), "key.pem", &made.signing_key.serialize_pem());
        let who = match users {
            Users::Anyone => "allow_anonymous true".to_owned(),
            Users::Named(users) => {
                let file = write(dir.path(), "passwd", "");
                for (name, password) in users {
                    let status = Command::new("mosquitto_passwd").arg("-b").arg(&file).args([name, password]).status();
                    assert!(status.expect("mosquitto_passwd comes with mosquitto").success());
                }
                open_to_all(&file);
                format!("allow_anonymous false\npassword_file {}", file.display())
            }
        };
        let text = format!(
            "user nobody\npersistence false\nlog_dest stderr\n{who}\n{more}\n\
             listener {port} 127.0.0.1\n\
             listener {tls_port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            certificate.display(),
            key.display()
        );
        let conf = write(dir.path(), "m.conf", &text);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let tls = SocketAddr::from(([127, 0, 0, 1], tls_port));
        let conf = conf.to_str().expect("a plain path").to_owned();
        let server = Server::start("mosquitto", "/usr/sbin/mosquitto", &["-c", &conf], dir, address);
        Self { server, address, tls, certificate }
    }
}

/// The server reads it after it has dropped its privileges.
pub fn open_to_all(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).expect("own file");
}

/// Publishes as a stranger would, at QoS 1, and waits for the acknowledgement.
pub fn publish(address: SocketAddr, topic: &str, payload: &[u8], retain: bool) {
    let mut stream = TcpStream::connect(address).expect("the broker listens");
    stream.write_all(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02xy").expect("CONNECT");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("CONNACK");
    assert_eq!(answer, [0x20, 2, 0, 0]);
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend([0, 1]);
    body.extend(payload);
    let mut packet = vec![0x32 | u8::from(retain)];
    let mut length = body.len();
    loop {
        let more = if length >= 128 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | more);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    stream.write_all(&packet).expect("PUBLISH");
    stream.read_exact(&mut answer).expect("PUBACK");
    assert_eq!(answer, [0x40, 2, 0, 1]);
    stream.write_all(&[0xe0, 0]).expect("DISCONNECT");
}

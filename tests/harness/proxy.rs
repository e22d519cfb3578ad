//! A TCP proxy that knows nothing of what passes through it, and can delay it, hold it back, cut it off, turn away some
//! connections and lead new ones elsewhere.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// How often a held connection looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Control {
    delay_down_ms: AtomicU64,
    hold_down: AtomicBool,
    trigger: Mutex<Option<Vec<u8>>>,
    over: AtomicBool,
    target: Mutex<Option<SocketAddr>>,
    plan: Mutex<VecDeque<bool>>,
    streams: Mutex<Vec<TcpStream>>,
}

/// A running proxy; ends with its value.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    control: Arc<Control>,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to `target`.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let control = Arc::new(Control::default());
        let shared = control.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.over.load(SeqCst) {
                    return;
                }
                if shared.plan.lock().expect("no panic").pop_front() == Some(false) {
                    continue;
                }
                let target = shared.target.lock().expect("no panic").unwrap_or(target);
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { continue };
                let copy = |s: &TcpStream| s.try_clone().expect("a socket can be shared");
                shared.streams.lock().expect("no panic").extend([copy(&client), copy(&server)]);
                pump(copy(&client), copy(&server), shared.clone(), false);
                pump(server, client, shared.clone(), true);
            }
        });
        Self { address, control }
    }

    /// Every piece that the server sends reaches the client this much later.
    pub fn delay_down(&self, delay: Duration) {
        self.control.delay_down_ms.store(delay.as_millis() as u64, SeqCst);
    }

    /// Once bytes with this text pass, in either direction, what the server sends (these bytes included) is held back
    /// until [`Proxy::release`].
    pub fn hold_from(&self, text: &str) {
        *self.control.trigger.lock().expect("no panic") = Some(text.as_bytes().to_vec());
    }

    /// From now on, what the server sends is held back until [`Proxy::release`].
    pub fn hold(&self) {
        self.control.hold_down.store(true, SeqCst);
    }

    /// Waits until something is held back.
    pub async fn held(&self) {
        while !self.control.hold_down.load(SeqCst) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets what was held back pass.
    pub fn release(&self) {
        *self.control.trigger.lock().expect("no panic") = None;
        self.control.hold_down.store(false, SeqCst);
    }

    /// Leads connections that are made from now on to another server; those that are open stay where they are.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.control.target.lock().expect("no panic") = Some(target);
    }

    /// What happens to the next connections: `x` is closed at once, any other letter passes; then all pass.
    pub fn turn_away(&self, plan: &str) {
        *self.control.plan.lock().expect("no panic") = plan.chars().map(|c| c != 'x').collect();
    }

    /// How many connections are still planned for.
    pub fn planned(&self) -> usize {
        self.control.plan.lock().expect("no panic").len()
    }

    /// Cuts all connections that are open now.
    pub fn cut(&self) {
        for stream in self.control.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.over.store(true, SeqCst);
        self.cut();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, control: Arc<Control>, down: bool) {
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            if control.trigger.lock().expect("no panic").as_ref().is_some_and(|t| contains(&bytes[..n], t)) {
                control.hold_down.store(true, SeqCst);
            }
            if down {
                while control.hold_down.load(SeqCst) && !control.over.load(SeqCst) {
                    thread::sleep(LOOK_EVERY);
                }
                thread::sleep(Duration::from_millis(control.delay_down_ms.load(SeqCst)));
            }
            if to.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|w| w == text)
}

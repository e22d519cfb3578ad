//! A policy server of postfix (`check_policy_service inet:ADDRESS`, as postgrey is one): it is asked about each
//! recipient, and answers with an action of access(5).

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// A running policy server; ends with its value.
pub struct Policy {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Policy {
    /// Answers the n-th question, from 0, with this action.
    pub fn start(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let policy = Self { address, asked: Arc::default(), over: Arc::default() };
        let (asked, over, answer) = (policy.asked.clone(), policy.over.clone(), Arc::new(answer));
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if over.load(SeqCst) {
                    return;
                }
                let (asked, answer) = (asked.clone(), answer.clone());
                thread::spawn(move || {
                    let lines = BufReader::new(stream.try_clone().expect("a socket can be shared")).lines();
                    // A question is lines of `name=value` and an empty one.
                    for _ in lines.map_while(Result::ok).filter(String::is_empty) {
                        let action = answer(asked.fetch_add(1, SeqCst));
                        if stream.write_all(format!("action={action}\n\n").as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        policy
    }

    /// The next question is this one.
    pub fn count_from(&self, n: usize) {
        self.asked.store(n, SeqCst);
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

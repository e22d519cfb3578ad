//! What asking alone costs here and now: the same requests by hyper and nothing else, from a process of their own.
//!
//! Machines differ, and one differs from itself while its neighbours compute: processor time of a probe is told beside that
//! of a request that nobody decides on and nobody keeps.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, interval_at, sleep},
};

use crate::{daemon::cpu_s_of, site::Site};

/// Until all that is done once is done.
const SETTLED: Duration = Duration::from_secs(2);

/// Processor time of 1,000 requests when so many pages are asked for once a second, in a process made for it.
pub fn measure(site: &Site, pages: usize, window: Duration) -> f64 {
    let mut command = Command::new(std::env::current_exe().expect("the bench has a file"));
    command.args(["--bare", &pages.to_string(), "--seconds", &window.as_secs().max(1).to_string()]);
    command.args(site.addresses().iter().map(|address| format!("--address={address}")));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("the bench starts itself");
    let told = String::from_utf8_lossy(&output.stdout);
    told.trim().parse().expect("it prints a number")
}

/// The other process.
pub fn ask(pages: usize, addresses: &[SocketAddr], window: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let begun = Instant::now();
        for page in 0..pages {
            let address = addresses[page % addresses.len()];
            let first = begun + Duration::from_secs(1) * page as u32 / pages as u32;
            tokio::spawn(async move {
                let mut due = interval_at(first, Duration::from_secs(1));
                loop {
                    due.tick().await;
                    request(address, page).await;
                }
            });
        }
        sleep(SETTLED).await;
        let before = cpu_s_of("self");
        sleep(window).await;
        let requests = window.as_secs_f64() * pages as f64;
        println!("{}", (cpu_s_of("self") - before) / requests * 1_000.0);
    });
}

async fn request(address: SocketAddr, page: usize) {
    let stream = TcpStream::connect(address).await.expect("the site listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::get(format!("/{page}")).header("host", address.to_string());
    let request = request.body(Empty::<Bytes>::new()).expect("a good request");
    let answer = sender.send_request(request).await.expect("an answer");
    answer.into_body().collect().await.expect("a body");
}

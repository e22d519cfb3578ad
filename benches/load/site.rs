//! The site that is asked: a page per check, plain or with certificates of its own authority, on a thread of the bench's.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// Addresses the site listens on, 127.0.0.1 and up: one alone would run out of client ports (28,000, each kept for a
/// minute after its connection) at a few hundred connections a second.
const ADDRESSES: u8 = 16;

/// What the site was asked.
struct Seen {
    /// When each check was asked first.
    first: Vec<Option<Instant>>,
    /// Checks not asked yet.
    missing: usize,
    /// When anything was asked.
    asked: Vec<Instant>,
}

/// A running site; it runs as long as the bench does.
pub struct Site {
    addresses: Vec<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
    authority: Option<String>,
}

impl Site {
    pub fn open(pages: usize, tls: bool) -> Self {
        let seen = Arc::new(Mutex::new(Seen { first: vec![None; pages], missing: pages, asked: Vec::new() }));
        let bind = |last| {
            let listener = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0));
            let listener = listener.expect("all of 127.0.0.0/8 is the loopback device's");
            listener.set_nonblocking(true).expect("a listener can be made so");
            listener
        };
        let listeners: Vec<_> = (1..=ADDRESSES).map(bind).collect();
        let addresses = listeners.iter().map(|l| l.local_addr().expect("a bound listener has one")).collect();
        let (authority, acceptor) = tls.then(certified).unzip();
        let shared = seen.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let accepting = listeners.into_iter().map(|l| accept(l, shared.clone(), acceptor.clone()));
                futures_util::future::join_all(accepting).await
            });
        });
        Self { addresses, seen, authority }
    }

    /// The certificate of the authority that has signed the site's.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn url(&self, page: usize) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/{page}", self.addresses[page % self.addresses.len()])
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    pub fn probes(&self) -> usize {
        self.seen().asked.len()
    }

    /// Waits until every page has been asked for; tells when the last one was.
    pub fn all_asked(&self, max: Duration) -> Instant {
        let begun = Instant::now();
        while self.seen().missing > 0 {
            assert!(begun.elapsed() < max, "{} checks are not asked within {max:?}", self.seen().missing);
            thread::sleep(Duration::from_millis(5));
        }
        self.seen().first.iter().flatten().max().copied().expect("a run has checks")
    }

    /// When it was asked first.
    pub fn first(&self) -> Instant {
        *self.seen().asked.first().expect("a run has probes")
    }

    /// The most probes in so long a time, the start included.
    pub fn busiest(&self, of: Duration) -> usize {
        let seen = self.seen();
        let mut from = 0;
        let within = seen.asked.iter().enumerate().map(|(n, at)| {
            while at.duration_since(seen.asked[from]) > of {
                from += 1;
            }
            n + 1 - from
        });
        within.max().unwrap_or(0)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An authority's certificate as PEM, and what answers with a certificate that it has signed.
fn certified() -> (String, TlsAcceptor) {
    let key = || KeyPair::generate().expect("the system has randomness");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bongsu bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, key()).expect("a proper authority");
    let names: Vec<String> = (1..=ADDRESSES).map(|last| format!("127.0.0.{last}")).collect();
    let own = key();
    let leaf = CertificateParams::new(names).expect("addresses").signed_by(&own, &authority).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(own.serialize_der()).into())
        .expect("the key is the certificate's");
    (authority.pem(), TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: std::net::TcpListener, seen: Arc<Mutex<Seen>>, tls: Option<TlsAcceptor>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those in use come back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (seen, tls) = (seen.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => {
                    // A daemon that stops drops connections; what it then did not hear is its own matter.
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, &seen).await;
                    }
                }
                None => answer(stream, &seen).await,
            }
        });
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, seen: &Mutex<Seen>) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(page(seen, &request))));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn page(seen: &Mutex<Seen>, request: &Request<Incoming>) -> Response<String> {
    let now = Instant::now();
    let mut guard = lock(seen);
    let seen = &mut *guard;
    seen.asked.push(now);
    let page = request.uri().path().trim_start_matches('/').parse::<usize>();
    if let Some(first @ None) = page.ok().and_then(|page| seen.first.get_mut(page)) {
        *first = Some(now);
        seen.missing -= 1;
    }
    Response::new("fine\n".into())
}

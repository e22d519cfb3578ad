//! The two halves of a receiving session. A [`Watch`] owns the connection and is one long future: it waits, fetches and
//! deletes. A [`Mailbox`] is what the caller holds: it polls that future and takes what it brings. So a wait that is
//! dropped drops nothing, and goes on where it was.

use std::{pin::Pin, time::Duration};

use tokio::sync::mpsc;

use super::watch::{Ends, Watch};
use crate::{
    observation::Reason,
    protocol::{Arrival, Boxed, ReceiveSession},
};

/// Most arrivals that wait to be taken; beyond it the watch waits.
const ARRIVALS_MAX: usize = 16;

/// Most discards that wait to be done; beyond it a mail stays, and is found in store by the next session.
const DISCARDS_MAX: usize = 1_024;

/// Longest wait for deletions and the goodbye when the session ends.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// A session that is open.
pub struct Mailbox {
    watch: Pin<Box<dyn Future<Output = Reason> + Send>>,
    ended: Option<Reason>,
    arrivals: mpsc::Receiver<Arrival>,
    discards: mpsc::Sender<u64>,
}

impl Mailbox {
    /// Over folders that are open; nothing is done until it is waited for.
    pub fn new(watch: Watch) -> Self {
        let (send, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (discards, receive) = mpsc::channel(DISCARDS_MAX);
        let watch = watch.run(Ends { arrivals: send, discards: receive });
        Self { watch: Box::pin(watch), ended: None, arrivals, discards }
    }
}

impl ReceiveSession for Mailbox {
    fn next<'a>(&'a mut self) -> Boxed<'a, Result<Arrival, Reason>> {
        Box::pin(async move {
            loop {
                // What was fetched before the end is handed out before the end is told.
                if let Some(reason) = &self.ended {
                    return self.arrivals.try_recv().map_err(|_| reason.clone());
                }
                tokio::select! {
                    biased;
                    Some(arrival) = self.arrivals.recv() => return Ok(arrival),
                    reason = &mut self.watch => self.ended = Some(reason),
                }
            }
        })
    }

    fn discard(&mut self, handle: u64) {
        let _ = self.discards.try_send(handle);
    }

    fn close<'a>(self: Box<Self>) -> Boxed<'a, ()> {
        Box::pin(async move {
            let Self { watch, ended, arrivals, discards } = *self;
            // Their ends are how the watch knows that it is over.
            drop((arrivals, discards));
            if ended.is_none() {
                let _ = tokio::time::timeout(GOODBYE_MAX, watch).await;
            }
        })
    }
}

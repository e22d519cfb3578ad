//! The two halves of a session that receives mail. A watch owns the connection and is one long future: it waits, fetches
//! and deletes. A [`Mailbox`] is what the caller holds: it polls that future and takes what it brings. So a wait that is
//! dropped drops nothing, and goes on where it was.

use std::{pin::Pin, time::Duration};

use tokio::sync::mpsc::{self, error::TryRecvError};

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

/// The watch's ends of the channels to whoever holds the session.
pub struct Ends {
    arrivals: mpsc::Sender<Arrival>,
    discards: mpsc::Receiver<u64>,
    /// Handles of mails that are to be taken off, not yet done.
    pub discarded: Vec<u64>,
    /// Whether the session is to end.
    pub closing: bool,
}

impl Ends {
    /// Hands a mail out. Nobody takes it any more when the session is being closed.
    pub async fn hand_out(&self, arrival: Arrival) {
        let _ = self.arrivals.send(arrival).await;
    }

    /// Takes in what was discarded until now, and whether the session is to end.
    pub fn take_in(&mut self) {
        loop {
            match self.discards.try_recv() {
                Ok(handle) => self.discarded.push(handle),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
            }
        }
    }

    /// Waits until something is discarded or the session is to end. Safe to drop.
    pub async fn asked(&mut self) {
        match self.discards.recv().await {
            Some(handle) => self.discarded.push(handle),
            None => self.closing = true,
        }
    }
}

/// A session that is open.
pub struct Mailbox {
    watch: Pin<Box<dyn Future<Output = Reason> + Send>>,
    ended: Option<Reason>,
    arrivals: mpsc::Receiver<Arrival>,
    discards: mpsc::Sender<u64>,
}

impl Mailbox {
    /// Around a watch, which is given its ends; nothing is done until it is waited for.
    pub fn new<W: Future<Output = Reason> + Send + 'static>(watch: impl FnOnce(Ends) -> W) -> Self {
        let (send, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (discards, receive) = mpsc::channel(DISCARDS_MAX);
        let ends = Ends { arrivals: send, discards: receive, discarded: Vec::new(), closing: false };
        Self { watch: Box::pin(watch(ends)), ended: None, arrivals, discards }
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

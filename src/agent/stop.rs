//! The wish that one task end. There is one for each check, so it is a few bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Not wished yet, or wished for good.
#[derive(Default)]
pub(super) struct Stop {
    wished: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// From now on it is wished.
    pub(super) fn wish(&self) {
        self.wished.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Resolves once it is wished; at once, if it has been.
    pub(super) async fn wished(&self) {
        // Before the look, so that a wish in between is heard.
        let notified = self.notify.notified();
        if !self.wished.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_wish_is_heard_whenever_it_comes() {
        for turn in 0..2_000 {
            let stop = Arc::new(Stop::default());
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    let stop = stop.clone();
                    tokio::spawn(async move { stop.wished().await })
                })
                .collect();
            for _ in 0..turn % 5 {
                tokio::task::yield_now().await;
            }
            stop.wish();
            for one in waiting {
                tokio::time::timeout(Duration::from_secs(30), one).await.expect("it is heard").expect("no panic");
            }
            tokio::time::timeout(Duration::from_secs(30), stop.wished()).await.expect("also by who comes later");
        }
    }
}

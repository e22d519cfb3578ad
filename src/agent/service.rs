//! What systemd is told: ready, reloading, stopping. Without `NOTIFY_SOCKET` all of it does nothing.

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd was not told");
    }
}

/// The first checks are scheduled (or a reload is over).
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(stamp) => tell(&[NotifyState::Reloading, stamp]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon is on its way out.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

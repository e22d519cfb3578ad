//! The receivers of alerts, with their own ways of failing, and what they have taken.

use std::{collections::BTreeMap, time::Duration};

use bongsu::{
    alert::{Message, MessageKind, message::Attempted},
    incident::IncidentId,
};

use super::{
    Rates,
    sites::{Site, Sites},
    time::Ms,
};

/// One message as it was taken, however often it came.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Of which incident.
    pub incident: Option<IncidentId>,
    /// What it told.
    pub kind: MessageKind,
    /// How often it came.
    pub times: u32,
    body: String,
}

/// One receiver.
#[derive(Default)]
pub struct Receiver {
    /// By key.
    pub taken: BTreeMap<String, Taken>,
    /// Keys that it has refused for good.
    pub refused: Vec<String>,
    /// Until when it cannot be reached.
    pub gone_until: Ms,
    /// Until when it answers nothing, though it may take what comes.
    pub hung_until: Ms,
    /// What it found wrong.
    pub complaints: Vec<String>,
}

impl Receiver {
    /// One attempt to deliver: what its sender learns, and after how long.
    pub fn deliver(
        &mut self,
        message: &Message,
        (now, is_cut): (Ms, bool),
        rates: &Rates,
        random: &mut fastrand::Rng,
        sites: &mut Sites,
    ) -> (Attempted, Ms) {
        let retry = |error: &str, wish: Option<u64>| Attempted::Retry {
            error: error.into(),
            retry_after: wish.map(Duration::from_secs),
        };
        if is_cut {
            return (retry("no route to host", None), 2);
        }
        if now < self.gone_until {
            sites.hit(Site::ReceiverGone);
            return (retry("connection refused", None), 2);
        }
        let is_hung = now < self.hung_until;
        if is_hung || random.f64() < rates.receiver {
            match random.u32(..if is_hung { 5 } else { 8 }) {
                0..3 => {
                    sites.hit(Site::AnswerLost);
                    self.take(message);
                    return (retry("no answer within 10s", None), 10_000);
                }
                3..5 => {
                    sites.hit(Site::ReceiverSilent);
                    return (retry("no answer within 10s", None), 10_000);
                }
                5..7 => {
                    sites.hit(Site::ReceiverPauses);
                    return (retry("429", Some(random.u64(1..600))), 50);
                }
                _ => {
                    sites.hit(Site::ReceiverRefuses);
                    self.refused.push(message.key.clone());
                    return (Attempted::Refused { error: "404".into() }, 50);
                }
            }
        }
        self.take(message);
        (Attempted::Delivered, random.i64(20..400))
    }

    fn take(&mut self, message: &Message) {
        let body = serde_json::to_string(&message.alert).expect("an alert is plain data");
        let (incident, kind) = (message.alert.incident, message.alert.kind);
        if let Some(known) = self.taken.get_mut(&message.key) {
            known.times += 1;
            if known.body != body {
                self.complaints.push(format!("{} came with another body", message.key));
            }
            return;
        }
        let earlier = || self.taken.values().filter(|t| t.incident == incident);
        let complaint = match kind {
            MessageKind::Recovery if !earlier().any(|t| !t.kind.is_final()) => {
                Some("a recovery of what was never told")
            }
            kind if kind.is_final() && earlier().any(|t| t.kind.is_final()) => Some("a second end"),
            MessageKind::Problem if earlier().any(|t| t.kind == MessageKind::Problem) => Some("a second beginning"),
            kind if !kind.is_final() && earlier().any(|t| t.kind.is_final()) => Some("more of what is over"),
            _ => None,
        };
        if let Some(complaint) = complaint {
            self.complaints.push(format!("{complaint}: {} ({})", message.key, kind.as_str()));
        }
        self.taken.insert(message.key.clone(), Taken { incident, kind, times: 1, body });
    }
}

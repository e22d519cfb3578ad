//! The places where something can go wrong, each with a name and a count.

use std::fmt;

/// A place where a fault is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Site {
    /// A single attempt fails, by chance alone.
    AttemptLost,
    /// An attempt is refused in the course of an outage.
    AttemptRefused,
    /// An attempt gets no answer in the course of an outage.
    AttemptSilent,
    /// An attempt is turned down by the peer in the course of an outage.
    AttemptRejected,
    /// An attempt works, but slowly.
    AttemptSlow,
    /// An attempt fails by a fault of the agent's own.
    AttemptOwnFault,
    /// An attempt does not end and is cut off; nothing is observed.
    AttemptHangs,
    /// A message is accepted and lost.
    MessageLost,
    /// A message arrives after its objective.
    MessageLate,
    /// A message arrives after it was booked as lost.
    MessageVeryLate,
    /// A message arrives twice.
    MessageTwice,
    /// A message arrives changed.
    MessageChanged,
    /// A message is returned as undeliverable.
    MessageBounced,
    /// The acknowledgement of a message is lost, the message is not.
    AcknowledgementLost,
    /// The acknowledgement of a message is lost, and the message too.
    MessageUncertain,
    /// The store refuses to write, for some tries.
    StoreRefuses,
    /// The agent is killed with a group decided and not written.
    KilledBeforeCommit,
    /// The agent is killed with a group written and not shown.
    KilledAfterCommit,
    /// The agent is killed with the end of an incident written and a message of it on its way.
    KilledAtTheEnd,
    /// The agent is killed while a channel is delivering.
    KilledWhileSending,
    /// The agent is killed while attempts are on their way.
    KilledWhileAsking,
    /// The agent is stopped for a while.
    Stopped,
    /// The wall clock is set forward.
    StepForward,
    /// The wall clock is set back.
    StepBack,
    /// The machine is suspended.
    Suspended,
    /// The agent's network is cut.
    NetworkCut,
    /// A receiver cannot be reached.
    ReceiverGone,
    /// A receiver takes a message, and its answer is lost.
    AnswerLost,
    /// A receiver takes nothing and does not answer.
    ReceiverSilent,
    /// A receiver asks for a pause.
    ReceiverPauses,
    /// A receiver refuses for good.
    ReceiverRefuses,
    /// Somebody acknowledges an incident.
    Acknowledged,
}

impl Site {
    /// How many there are.
    pub const COUNT: usize = Self::Acknowledged as usize + 1;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::AttemptLost,
        Self::AttemptRefused,
        Self::AttemptSilent,
        Self::AttemptRejected,
        Self::AttemptSlow,
        Self::AttemptOwnFault,
        Self::AttemptHangs,
        Self::MessageLost,
        Self::MessageLate,
        Self::MessageVeryLate,
        Self::MessageTwice,
        Self::MessageChanged,
        Self::MessageBounced,
        Self::AcknowledgementLost,
        Self::MessageUncertain,
        Self::StoreRefuses,
        Self::KilledBeforeCommit,
        Self::KilledAfterCommit,
        Self::KilledAtTheEnd,
        Self::KilledWhileSending,
        Self::KilledWhileAsking,
        Self::Stopped,
        Self::StepForward,
        Self::StepBack,
        Self::Suspended,
        Self::NetworkCut,
        Self::ReceiverGone,
        Self::AnswerLost,
        Self::ReceiverSilent,
        Self::ReceiverPauses,
        Self::ReceiverRefuses,
        Self::Acknowledged,
    ];
}

/// How often each site was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sites([u64; Site::COUNT]);

impl Default for Sites {
    fn default() -> Self {
        Self([0; Site::COUNT])
    }
}

impl Sites {
    /// Counts one.
    pub fn hit(&mut self, site: Site) {
        self.0[site as usize] += 1;
    }

    /// How often it was hit.
    pub fn of(&self, site: Site) -> u64 {
        self.0[site as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for site in Site::ALL {
            writeln!(f, "  {:>9}  {site:?}", self.of(site))?;
        }
        Ok(())
    }
}

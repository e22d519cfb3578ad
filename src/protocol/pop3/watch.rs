//! What a receiving session does: every poll it logs in, lists the mails by their unique identifiers (UIDL), fetches
//! those it has not seen, deletes what was discarded, and quits, by which deletions are done and the maildrop is free
//! for others.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    client::{Fault, at_delivery},
    login::{self, NoLogin, Session},
    options::Place,
};
use crate::{
    clock,
    observation::{Kind, Phase, Reason},
    protocol::{
        Arrival, Attempt, Net,
        mail::{
            copy_id,
            mailbox::Ends,
            parse::{self, MAIL_BYTES_MAX},
        },
        wire::Family,
    },
    value::TimeSpan,
};

/// Longest one login with all that is done in it may take.
const VISIT_MAX: Duration = Duration::from_secs(60);

/// Wait before the maildrop is tried again at the opening, when another session holds it: an earlier session of the
/// same check does so for a moment.
const LOCKED_WAIT: Duration = Duration::from_millis(500);

/// How long the maildrop may be held by others before the session counts as gone.
const LOCKED_MAX: Duration = Duration::from_secs(120);

/// Most mails that were there before and are looked at, the newest.
const LEFTOVERS_MAX: usize = 200;

/// Of those, how many in one login: the maildrop is locked meanwhile.
const LEFTOVERS_VISIT_MAX: usize = 20;

/// Most new mails fetched in one login; the rest is for the next.
const NEW_MAX: usize = 100;

/// Most mails that can be discarded; a handle is forgotten when so many came after it.
const HANDLES_MAX: usize = 4_096;

/// Longest headers that are fetched of a mail that may be anybody's.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// An open session; the connection itself lives for one visit.
pub struct Watch {
    place: Arc<Place>,
    net: Arc<Net>,
    family: Family,
    /// Mails there at the latest visit and looked at, by their identity.
    seen: HashSet<u64>,
    leftovers: VecDeque<u64>,
    /// The identifiers of mails that were handed out.
    handles: BTreeMap<u64, u64>,
    next_handle: u64,
    visited_at: Instant,
    /// Since when others hold the maildrop.
    locked_since: Option<Instant>,
}

/// A mail as the server lists it.
struct Listed {
    number: u32,
    identity: u64,
    bytes: usize,
    /// No other mail has the same unique identifier.
    is_alone: bool,
}

impl Watch {
    /// Logs in once and notes what is there; a mail that comes from now on is seen.
    pub async fn open(place: Arc<Place>, cx: &mut Attempt) -> Result<Self, Reason> {
        let mut session = loop {
            match login::log_in(&place.account, cx).await {
                Ok(session) => break session,
                Err(NoLogin::Failed(reason)) => return Err(reason),
                Err(NoLogin::Busy(reason)) => {
                    cx.note(format!("{}; trying again", reason.text));
                    cx.awaits(reason.text);
                    tokio::time::sleep(LOCKED_WAIT).await;
                }
            }
        };
        cx.phase(Phase::Exchange);
        let there = listed(&mut session, cx).await.map_err(|(fault, what)| fault.reason(cx, what))?;
        let goodbye = session.client.quit(cx).await?;
        if !goodbye.is_ok {
            return Err(cx.fail(Kind::Rejected, format!("QUIT refused: {}", goodbye.shown())));
        }
        let identities: Vec<u64> = there.iter().map(|mail| mail.identity).collect();
        let newest = &identities[identities.len().saturating_sub(LEFTOVERS_MAX)..];
        Ok(Self {
            net: cx.net().clone(),
            family: cx.family(),
            leftovers: newest.iter().copied().collect(),
            seen: identities.into_iter().collect(),
            handles: BTreeMap::new(),
            next_handle: 0,
            visited_at: clock::instant(),
            locked_since: None,
            place,
        })
    }

    /// Watches until the session is closed or gone; why it is.
    pub async fn run(mut self, mut ends: Ends) -> Reason {
        // What was there before is looked at without waiting for the first poll.
        let mut due = self.visited_at + if self.leftovers.is_empty() { self.place.poll } else { Duration::ZERO };
        loop {
            ends.take_in();
            if ends.closing {
                if !ends.discarded.is_empty() {
                    let _ = self.visit(&mut ends).await;
                }
                return Reason::new(Phase::Close, Kind::Closed, "the session was closed");
            }
            if clock::instant() >= due {
                if let Err(reason) = self.visit(&mut ends).await {
                    return at_delivery(&reason);
                }
                due = clock::instant() + self.place.poll;
                continue;
            }
            tokio::select! {
                biased;
                () = ends.asked() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    /// One login. What it brought is handed out when the maildrop is free again.
    async fn visit(&mut self, ends: &mut Ends) -> Result<(), Reason> {
        let started = clock::instant();
        let mut cx = Attempt::new(self.net.clone(), self.family, clock::now(), started, false);
        cx.set_deadline(started + VISIT_MAX);
        let visited = match tokio::time::timeout(VISIT_MAX, self.visited(ends, &mut cx)).await {
            Ok(visited) => visited,
            Err(_) => Err(NoLogin::Failed(cx.overdue(VISIT_MAX))),
        };
        match visited {
            Ok(arrivals) => {
                self.locked_since = None;
                for arrival in arrivals {
                    ends.hand_out(arrival).await;
                }
                Ok(())
            }
            Err(NoLogin::Failed(reason)) => Err(reason),
            Err(NoLogin::Busy(reason)) => {
                let since = *self.locked_since.get_or_insert(started);
                if clock::instant().saturating_duration_since(since) < LOCKED_MAX {
                    return Ok(());
                }
                let text = format!("{}, for {} by now", reason.text, TimeSpan(LOCKED_MAX));
                Err(Reason::new(reason.phase, reason.kind, text))
            }
        }
    }

    async fn visited(&mut self, ends: &mut Ends, cx: &mut Attempt) -> Result<Vec<Arrival>, NoLogin> {
        let mut session = login::log_in(&self.place.account, cx).await?;
        cx.phase(Phase::Exchange);
        let there = listed(&mut session, cx).await.map_err(|(fault, what)| fault.reason(cx, what))?;
        let mut arrivals = Vec::new();
        if !ends.closing {
            self.look(&mut session, cx, &there, &mut arrivals).await?;
        }
        let deleted = self.delete(&mut session, cx, ends, &there).await?;
        let goodbye = session.client.quit(cx).await?;
        // Only now they are gone; otherwise the next visit deletes them again.
        if goodbye.is_ok {
            ends.discarded.clear();
            self.handles.retain(|handle, _| !deleted.contains(handle));
        }
        Ok(arrivals)
    }

    async fn look(
        &mut self,
        session: &mut Session,
        cx: &mut Attempt,
        there: &[Listed],
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), Reason> {
        let present: HashMap<u64, &Listed> = there.iter().map(|mail| (mail.identity, mail)).collect();
        self.seen.retain(|identity| present.contains_key(identity));
        let new: Vec<&Listed> = there.iter().filter(|mail| !self.seen.contains(&mail.identity)).take(NEW_MAX).collect();
        for mail in new {
            arrivals.extend(self.fetch(session, cx, mail, false).await?);
            self.seen.insert(mail.identity);
        }
        for _ in 0..LEFTOVERS_VISIT_MAX {
            let Some(identity) = self.leftovers.pop_front() else { break };
            if let Some(mail) = present.get(&identity) {
                arrivals.extend(self.fetch(session, cx, mail, true).await?);
            }
        }
        Ok(())
    }

    /// Fetches a mail; of one that was there before, only if its headers are a tracer's.
    async fn fetch(
        &mut self,
        session: &mut Session,
        cx: &mut Attempt,
        mail: &Listed,
        is_old: bool,
    ) -> Result<Option<Arrival>, Reason> {
        let Listed { number, bytes, .. } = mail;
        let is_large = *bytes > MAIL_BYTES_MAX;
        let mut text = None;
        if (is_old || is_large) && (session.can("TOP") || session.capabilities.is_empty()) {
            match session.client.mail(cx, &format!("TOP {number} 0"), HEADER_BYTES_MAX).await {
                Ok(headers) if is_old && !parse::is_worth_reading(&headers) => return Ok(None),
                Ok(headers) => text = Some(headers),
                Err(Fault::Refused(_)) => {}
                Err(Fault::Gone(reason)) => return Err(reason),
            }
        }
        if !is_large {
            // Twice, as a server may count lines otherwise than it sends them.
            match session.client.mail(cx, &format!("RETR {number}"), 2 * MAIL_BYTES_MAX).await {
                Ok(whole) => text = Some(whole),
                Err(Fault::Refused(_)) => return Ok(None),
                Err(Fault::Gone(reason)) => return Err(reason),
            }
        }
        // A large mail of a server without TOP stays unread: it is no tracer.
        Ok(text.map(|text| self.arrival(mail.identity, &text)))
    }

    fn arrival(&mut self, identity: u64, text: &[u8]) -> Arrival {
        let read = parse::read(text);
        self.next_handle += 1;
        self.handles.insert(self.next_handle, identity);
        if self.handles.len() > HANDLES_MAX {
            self.handles.pop_first();
        }
        Arrival {
            at: clock::instant(),
            payload: read.payload,
            nature: read.nature,
            copy: Some(identity),
            handle: Some(self.next_handle),
            beside: read.beside,
            flaw: None,
            details: read.path.map(|path| ("path", path)).into_iter().collect(),
        }
    }

    /// Marks what was discarded; QUIT deletes it. The handles that are done with.
    async fn delete(
        &self,
        session: &mut Session,
        cx: &mut Attempt,
        ends: &mut Ends,
        there: &[Listed],
    ) -> Result<Vec<u64>, Reason> {
        ends.take_in();
        for handle in &ends.discarded {
            let Some(identity) = self.handles.get(handle) else { continue };
            let Some(mail) = there.iter().find(|mail| mail.identity == *identity) else { continue };
            // Among mails of one identifier it may be another one by now, when somebody took away one before it.
            if !mail.is_alone {
                let top = session.client.mail(cx, &format!("TOP {} 0", mail.number), HEADER_BYTES_MAX).await;
                match top {
                    Ok(headers) if parse::is_worth_reading(&headers) => {}
                    Ok(_) | Err(Fault::Refused(_)) => continue,
                    Err(Fault::Gone(reason)) => return Err(reason),
                }
            }
            // One that another session took away meanwhile is refused, and gone all the same.
            session.client.command(cx, &format!("DELE {}", mail.number)).await?;
        }
        Ok(ends.discarded.clone())
    }
}

/// The mails that are there, oldest first.
async fn listed(session: &mut Session, cx: &mut Attempt) -> Result<Vec<Listed>, (Fault, &'static str)> {
    let sizes = session.client.listing(cx, "LIST").await.map_err(|fault| (fault, "LIST"))?;
    let sizes: HashMap<u32, usize> = sizes.iter().filter_map(|line| pair(line)).collect();
    let named = session.client.listing(cx, "UIDL").await;
    let named = named.map_err(|fault| (fault, "UIDL, by which mails are told apart, is"))?;
    Ok(told_apart(&named, &sizes))
}

/// Mails with the same identifier, which RFC 1939 (section 7) allows for copies and popa3d gives to any without
/// `Received` and `Message-ID`, are told apart by which of them it is.
fn told_apart(named: &[String], sizes: &HashMap<u32, usize>) -> Vec<Listed> {
    let named: Vec<(u32, &str)> = named
        .iter()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(number, name)| Some((number.parse().ok()?, name.trim())))
        .collect();
    let mut count: HashMap<&str, u32> = HashMap::new();
    for (_, name) in &named {
        *count.entry(name).or_default() += 1;
    }
    let mut before: HashMap<&str, u32> = HashMap::new();
    let listed = named.iter().map(|(number, name)| {
        let nth = before.entry(name).or_default();
        let identity = match *nth {
            0 => copy_id(&[b"pop3", name.as_bytes()]),
            nth => copy_id(&[b"pop3", name.as_bytes(), &nth.to_be_bytes()]),
        };
        *nth += 1;
        let bytes = sizes.get(number).copied().unwrap_or(0);
        Listed { number: *number, identity, bytes, is_alone: count[name] == 1 }
    });
    listed.collect()
}

/// `3 1204`
pub(super) fn pair(line: &str) -> Option<(u32, usize)> {
    let mut words = line.split_ascii_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

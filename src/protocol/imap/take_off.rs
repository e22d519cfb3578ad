//! Taking mails off the server: those that were discarded by their handle, and never another one.
//!
//! With UIDPLUS (RFC 4315) exactly these are expunged. Without it, EXPUNGE takes all that are marked as deleted, so it
//! is only said when nobody else's are; otherwise bongsu's stay marked, which is told. Gmail keeps what is expunged in
//! its archive, so there they are moved to its trash (RFC 6851).

use super::{
    answers::hits,
    client::{Fault, Nobody, Part, Reply},
    codec,
    watch::{Watch, within},
};
use crate::protocol::mail::mailbox::Ends;

/// Most mails of one command: its line must stay short.
const BATCH_MAX: usize = 100;

impl Watch {
    /// Takes off all that was discarded.
    pub(super) async fn take_off(&mut self, ends: &mut Ends) -> Result<(), Fault> {
        let mut held: Vec<_> =
            std::mem::take(&mut ends.discarded).iter().filter_map(|handle| self.handles.remove(handle)).collect();
        // Those of the open folder first: it need not be opened again.
        held.sort_by_key(|h| (Some(h.folder) != self.selected, h.folder, h.uid));
        while let Some(first) = held.first().copied() {
            let count = held.iter().take(BATCH_MAX).take_while(|h| h.folder == first.folder).count();
            let batch: Vec<_> = held.drain(..count).collect();
            if !self.is_selected(first.folder).await? {
                continue;
            }
            // Of a folder that is another one by now, the UIDs are other mails.
            let validity = self.folders[first.folder].validity;
            let uids: Vec<u32> = batch.iter().filter(|h| h.validity == validity).map(|h| h.uid).collect();
            if !uids.is_empty() {
                self.remove(&uids).await?;
            }
        }
        Ok(())
    }

    async fn remove(&mut self, uids: &[u32]) -> Result<(), Fault> {
        let set = codec::set(uids);
        if self.client.can("X-GM-EXT-1")
            && self.client.can("MOVE")
            && let Some(trash) = self.trash.clone()
        {
            let begin = format!("UID MOVE {set} ");
            let parts = [Part::Text(&begin), Part::String(&trash)];
            let reply = within("UID MOVE", self.answer, self.client.command(&mut Nobody, "UID MOVE", &parts)).await?;
            self.refused(&reply);
            return Ok(());
        }
        let plus = self.client.can("UIDPLUS") || self.client.can("IMAP4REV2");
        if !self.ask("UID STORE", &format!("UID STORE {set} +FLAGS.SILENT (\\Deleted)")).await? {
            return Ok(());
        }
        if plus {
            self.ask("UID EXPUNGE", &format!("UID EXPUNGE {set}")).await?;
            return Ok(());
        }
        let search = "UID SEARCH DELETED";
        let reply = within("UID SEARCH", self.answer, self.client.simple(&mut Nobody, search)).await?;
        if !reply.is_ok() || hits(&reply).iter().any(|uid| !uids.contains(uid)) {
            self.remarks("other mails are marked as deleted, so the tracers are only marked and not expunged");
            return Ok(());
        }
        self.ask("EXPUNGE", "EXPUNGE").await?;
        Ok(())
    }

    /// Asks for it; whether it was done. What was refused is told with the next mail.
    async fn ask(&mut self, what: &'static str, command: &str) -> Result<bool, Fault> {
        let reply = within(what, self.answer, self.client.simple(&mut Nobody, command)).await?;
        Ok(!self.refused(&reply))
    }

    fn refused(&mut self, reply: &Reply) -> bool {
        if !reply.is_ok() {
            self.remarks(&format!("tracers cannot be deleted: {}", reply.done.shown()));
        }
        !reply.is_ok()
    }
}

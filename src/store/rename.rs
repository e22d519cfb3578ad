//! Gives a check's history another name.

use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{
    error::{Fault, StoreError},
    summed,
    writer::Writer,
};
use crate::{incident::Incident, value::CheckName};

/// What came of [`Writer::rename`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    /// The history now has the new name.
    Done,
    /// Nothing is known under the old name (any more): it was renamed before.
    NoHistory,
    /// The new name has a history of its own, so the two are kept apart.
    NameTaken,
}

impl Writer {
    /// Gives a check's history another name (`formerly`).
    pub fn rename(&mut self, from: &CheckName, to: &CheckName) -> Result<Renamed, StoreError> {
        let result = self.try_rename(from, to);
        self.known.clear();
        result.map_err(|e| e.at(&self.path, "renaming a check"))
    }

    fn try_rename(&mut self, from: &CheckName, to: &CheckName) -> Result<Renamed, Fault> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let find = |name: &CheckName| {
            tx.query_row("SELECT id FROM known_check WHERE name = ?1", [name.as_str()], |r| r.get::<_, i64>(0))
                .optional()
        };
        let Some(id) = find(from)? else { return Ok(Renamed::NoHistory) };
        if from == to || find(to)?.is_some() {
            return Ok(Renamed::NameTaken);
        }
        tx.execute("UPDATE known_check SET name = ?2 WHERE id = ?1", params![id, to.as_str()])?;
        let incidents: Vec<(i64, String)> = tx
            .prepare(
                "SELECT id, json FROM incident WHERE id IN (SELECT incident FROM incident_member WHERE check_id = ?1)",
            )?
            .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (number, json) in incidents {
            let mut incident: Incident = summed::from_json(&json, &format!("incident {number}"))?;
            if let Some(member) = incident.members.remove(from) {
                incident.members.insert(to.clone(), member);
            }
            tx.execute("UPDATE incident SET json = ?2 WHERE id = ?1", params![number, summed::to_json(&incident)?])?;
        }
        tx.commit()?;
        Ok(Renamed::Done)
    }
}

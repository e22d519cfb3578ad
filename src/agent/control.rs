//! What commands may ask of the running daemon.

use std::sync::{Arc, PoisonError};

use super::{
    Shared,
    heart::{self, Job, Reply},
};
use crate::{
    clock,
    decide::{Event, Refused},
    incident::IncidentId,
    protocol::Boxed,
    value::Name,
    web::control::{Control, Refusal, Reloaded, StatusReport, Taken, Tested},
};

impl Shared {
    async fn person(&self, event: Event) -> Result<Taken, Refusal> {
        match heart::ask(&self.jobs, |reply| Job::Event { event, reply: Some(reply) }).await {
            Ok(Reply::Refused(refused @ Refused::NoSuchIncident(_))) => Err(Refusal::NotFound(refused.to_string())),
            Ok(Reply::Refused(refused)) => Err(Refusal::Conflict(refused.to_string())),
            Ok(Reply::Done { unwritten }) => Ok(Taken { warning: unwritten }),
            Ok(_) => Ok(Taken::default()),
            Err(error) => Err(Refusal::Own(error.to_string())),
        }
    }
}

impl Control for Shared {
    fn status(&self) -> Boxed<'_, StatusReport> {
        Box::pin(async {
            let (checks, store) = match heart::ask(&self.jobs, |reply| Job::Status { reply }).await {
                Ok(Reply::Status(checks, store)) => (checks, store),
                _ => (Vec::new(), None),
            };
            let now = clock::now();
            StatusReport {
                agent: self.vantage.clone(),
                version: self.version.into(),
                started_at: self.started_at,
                uptime_ms: u64::try_from(clock::uptime().as_millis()).unwrap_or(u64::MAX),
                config: self.config_path.clone(),
                now,
                checks,
                vantage: self.sight.status(),
                metrics: self.telemetry.snapshot(now),
                reload_error: self.reload_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                store,
            }
        })
    }

    fn acknowledge(&self, id: IncidentId, by: String, note: String) -> Boxed<'_, Result<Taken, Refusal>> {
        Box::pin(self.person(Event::Acknowledge { incident: id, by, note }))
    }

    fn note(&self, id: IncidentId, by: String, text: String) -> Boxed<'_, Result<Taken, Refusal>> {
        Box::pin(self.person(Event::Note { incident: id, by, text }))
    }

    fn test_channel(&self, name: Name) -> Boxed<'_, Result<Tested, Refusal>> {
        Box::pin(async move {
            let (channel, net) = {
                let running = self.running.lock().await;
                let Some(configured) = running.config.channels.get(&name) else {
                    return Err(Refusal::NotFound(format!("there is no channel `{name}`")));
                };
                (configured.channel.clone(), running.net.clone())
            };
            Ok(super::try_channel(&name, &channel, &net, &self.vantage).await)
        })
    }

    fn reload(self: Arc<Self>) -> Boxed<'static, Result<Reloaded, Refusal>> {
        Box::pin(async { Self::reload(self).await.map_err(Refusal::Conflict) })
    }

    fn metrics(&self) -> String {
        self.telemetry.encode(clock::now())
    }
}

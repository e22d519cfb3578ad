//! The mails of an incident, as their reader finds them.

//! temporary
pub mod control;
pub mod demo;
pub mod logging;
pub mod output;
pub mod protocols;
pub mod render;
pub struct Context {
    pub out: output::Output,
}
#[derive(clap::Args, Clone, Copy)]
pub struct Format {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    Bad,
}
#[derive(Debug)]
pub enum Failure {
    Failed(String),
    Usage(String),
    Shown,
}
impl Failure {
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }
}

//! Figures against what they are to be.

use serde::Serialize;

/// One figure.
#[derive(Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// The most it may be; the least, where `at_least` is set.
    pub target: f64,
    pub at_least: bool,
}

impl Figure {
    pub fn at_most(name: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name, value, unit, target, at_least: false }
    }

    pub fn at_least(name: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name, value, unit, target, at_least: true }
    }

    fn holds(&self) -> bool {
        if self.at_least { self.value >= self.target } else { self.value <= self.target }
    }

    /// A line for people.
    pub fn print(&self) {
        let than = if self.at_least { "at least" } else { "at most" };
        let verdict = if self.holds() { "holds" } else { "does not hold" };
        println!("{:<66} {:>9.3} {:<8} {than:<8} {:>8} {verdict}", self.name, self.value, self.unit, self.target);
    }
}

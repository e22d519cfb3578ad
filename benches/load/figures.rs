//! Figures against what they are to be.

use serde::Serialize;

/// One figure.
#[derive(Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// The most it may be; the least, where `at_least` is set. None is for comparison.
    pub target: Option<f64>,
    pub at_least: bool,
}

impl Figure {
    pub fn at_most(name: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name, value, unit, target: Some(target), at_least: false }
    }

    pub fn at_least(name: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { name, value, unit, target: Some(target), at_least: true }
    }

    pub fn without_target(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, target: None, at_least: false }
    }

    fn holds(&self, target: f64) -> bool {
        if self.at_least { self.value >= target } else { self.value <= target }
    }

    /// A line for people.
    pub fn print(&self) {
        let Self { name, value, unit, .. } = self;
        let Some(target) = self.target else {
            println!("{name:<66} {value:>9.3} {unit}");
            return;
        };
        let than = if self.at_least { "at least" } else { "at most" };
        let verdict = if self.holds(target) { "holds" } else { "does not hold" };
        println!("{name:<66} {value:>9.3} {unit:<8} {than:<8} {target:>8} {verdict}");
    }
}

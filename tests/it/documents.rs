//! What a newcomer reads is true: the README's commands, configuration and lines for systemd, links, the picture.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use bongsu::config::{self, Environment};
use clap::CommandFactory;

use crate::harness::{self, daemon::BONGSU};

/// Surroundings in which every secret is there, and nothing else.
pub struct Generous;

impl Environment for Generous {
    fn variable(&self, name: &str) -> Option<String> {
        (name != "STATE_DIRECTORY").then(|| "a-secret".into())
    }
    fn read(&self, _: &Path, _: usize) -> io::Result<Vec<u8>> {
        Ok(b"a-secret".to_vec())
    }
    fn exists(&self, path: &Path) -> bool {
        path == Path::new("/run/bongsu")
    }
    fn host_name(&self) -> Option<String> {
        None
    }
}

fn documents() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir("docs").expect("own repository").map(|entry| entry.expect("readable").path());
    let mut files: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    files.extend(["README.md".into(), "checks/templates/README.md".into()]);
    files.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("own repository");
        (path, text)
    };
    files.into_iter().map(read).collect()
}

fn readme() -> String {
    fs::read_to_string("README.md").expect("own repository")
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(fence) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if fence == language {
                blocks.push(block.join("\n") + "\n");
            }
        }
    }
    blocks
}

#[test]
fn the_configurations_in_the_documents_load() {
    for (path, text) in documents() {
        // Examples of the reference stand in the registries, whose own test loads them.
        if path.ends_with("configuration.md") {
            continue;
        }
        let dir = harness::scratch();
        let blocks = blocks(&text, "yaml");
        for block in &blocks {
            let name = block.lines().next().and_then(|line| line.strip_prefix("# "));
            let name =
                name.unwrap_or_else(|| panic!("{}: an example does not name its file:\n{block}", path.display()));
            harness::write(dir.path(), name, block);
        }
        if !blocks.is_empty() {
            let config = config::load(dir.path(), &Generous).unwrap_or_else(|m| panic!("{}:\n{m}", path.display()));
            assert!(config.summary().checks > 0 && config.summary().channels > 0, "{}", path.display());
        }
    }
}

#[test]
fn the_first_configuration_has_ten_lines() {
    let lines: usize = blocks(&readme(), "yaml").iter().map(|block| block.lines().skip(1).count()).sum();
    assert!(readme().contains("ten lines") && lines <= 10, "{lines} lines");
}

#[test]
fn the_commands_in_the_readme_are_those_there_are() {
    let readme = readme();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `bongsu ")?.split_once('`'));
    let told: BTreeSet<&str> = rows.map(|(command, _)| command).collect();
    let heads: BTreeSet<&str> = told.iter().filter_map(|command| command.split(' ').next()).collect();
    let command = bongsu::cli::Cli::command();
    let there: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(heads, there, "the table of commands");

    let lines = blocks(&readme, "sh").concat();
    let typed = lines.lines().filter_map(|line| line.split_once("bongsu ").filter(|(before, _)| before.is_empty()));
    let demo = lines.lines().find_map(|line| line.strip_prefix("cargo run -- ")).expect("the first command");
    let typed: BTreeSet<&str> = typed.map(|(_, command)| command).chain(told).chain([demo]).collect();
    assert!(typed.len() >= 12, "{typed:?}");
    for command in typed {
        let words = command.split(" #").next().unwrap_or(command).split_whitespace();
        let output = Command::new(BONGSU).args(words).arg("--help").output().expect("the binary was built");
        assert!(output.status.success(), "bongsu {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_configuration_made_for_systemd_keeps_its_things_where_the_unit_lets_it() {
    let lines = blocks(&readme(), "sh").concat();
    let line = lines.lines().find(|line| line.starts_with("sed ")).expect("a line makes the configuration");
    let (sed, _) = line.split_once('|').expect("it is written with more rights");
    let made = Command::new("sh").args(["-c", sed]).output().expect("a shell");
    assert!(made.status.success(), "{sed}: {}", String::from_utf8_lossy(&made.stderr));
    let dir = harness::scratch();
    harness::write(dir.path(), "config.yaml", &String::from_utf8_lossy(&made.stdout));
    let config = config::load(dir.path(), &Generous).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.store.path, Path::new("/var/lib/bongsu/bongsu.db"));
    assert_eq!(config.agent.socket, Path::new("/run/bongsu/bongsu.sock"));
    for (name, channel) in &config.channels {
        let target = channel.channel.target();
        assert!(target.contains("/var/lib/bongsu/mail"), "{name} goes to {target}");
    }
    let unit = fs::read_to_string("systemd/bongsu.service").expect("own repository");
    for line in [
        "StateDirectory=bongsu",
        "RuntimeDirectory=bongsu",
        "ExecStart=/usr/bin/bongsu run --config /etc/bongsu/config.yaml",
    ] {
        assert!(unit.lines().any(|there| there == line), "{line}");
    }
}

#[test]
fn links_lead_somewhere() {
    for (path, text) in documents() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let directory = path.parent().unwrap_or(Path::new(""));
            assert!(file.is_empty() || directory.join(file).exists(), "{}: {target}", path.display());
            let has =
                |line: &str| line.starts_with('#') && harness::anchor(line.trim_start_matches(['#', ' '])) == anchor;
            let there = if file.is_empty() { Ok(text.clone()) } else { fs::read_to_string(directory.join(file)) };
            let found = anchor.is_empty() || there.is_ok_and(|there| there.lines().any(has));
            assert!(found, "{}: no heading for {target}", path.display());
        }
    }
}

#[test]
fn the_picture_is_one_of_the_demo() {
    let picture = fs::read_to_string("docs/demo.svg").expect("own repository");
    for told in ["cargo run -- demo --for 50s", "all is well", "IT BREAKS", "INCIDENT #1", "webhook problem", "OVER"] {
        assert!(picture.contains(told), "docs/picture draws it anew: `{told}` is not in docs/demo.svg");
    }
    assert!(picture.contains("width=\"900\""), "what GitHub shows without shrinking it");
}

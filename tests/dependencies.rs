//! The page on dependencies says what is in the lock file. It asks cargo, which fetches what other platforms need of it
//! where that is missing.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// All that is for more than tests.
const ALL: [&str; 2] = ["--features", "axum,blocking,json,metrics,proxy,serde,tls-ring,trace-context"];
const PAGE: &str = include_str!("../docs/dependencies.md");

#[test]
fn each_direct_dependency_is_explained() {
    let direct: BTreeSet<_> =
        tree(&["--depth", "1", "--all-features"]).into_keys().filter(|name| name != env!("CARGO_PKG_NAME")).collect();
    assert_eq!(direct, first_column("Direct"));
}

#[test]
fn each_licence_is_one_of_those_listed() {
    let listed = first_column("Licences");
    let mut needed = BTreeSet::new();
    for (name, versions) in tree(&ALL) {
        for (version, licence) in versions {
            // Every part must be allowed by one of its alternatives.
            for part in parts(&licence) {
                let allowed = part.iter().find(|alternative| listed.contains(**alternative));
                let allowed = allowed.unwrap_or_else(|| panic!("{name} {version}: {licence}"));
                needed.insert((*allowed).to_owned());
            }
        }
    }
    assert_eq!(needed, listed, "needed, listed");
}

#[test]
fn each_crate_that_is_there_twice_is_explained() {
    let twice = |features: &[&str]| -> BTreeSet<String> {
        tree(features).into_iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name).collect()
    };
    assert_eq!(twice(&ALL), first_column("Twice"));
    assert_eq!(twice(&[]), BTreeSet::new(), "with the default features");
}

#[test]
fn the_codec_comes_without_its_tls() {
    let features = cargo(&["--all-features", "--depth", "1", "-f", "{p}|{f}"]);
    let codec = features.lines().find(|line| line.starts_with("rumqttc ")).unwrap();
    assert!(codec.ends_with('|'), "{codec}");
}

/// `MIT/Apache-2.0` is an older way to write `OR`; a parenthesis holds alternatives only.
fn parts(licence: &str) -> Vec<Vec<&str>> {
    licence
        .split(" AND ")
        .map(|part| part.trim_matches(['(', ')']).split([' ', '/']).filter(|word| *word != "OR").collect())
        .collect()
}

/// The crates that are built for users, on whatever platform: the licence of each version of each name.
fn tree(arguments: &[&str]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for line in cargo(&[arguments, &["-f", "{p}|{l}"]].concat()).lines() {
        let (package, licence) = line.split_once('|').unwrap();
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap());
        crates.entry(name.to_owned()).or_default().insert(version.to_owned(), licence.replace(" (*)", ""));
    }
    assert!(!crates.is_empty());
    crates
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--target", "all", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the table in a section of the page begins its rows with.
fn first_column(section: &str) -> BTreeSet<String> {
    let (_, text) = PAGE.split_once(&format!("## {section}\n")).unwrap();
    let rows = text.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().trim_matches('`').to_owned()).collect()
}

//! The pages lead somewhere: each link to a file, and each to a heading, is there; what has Rust in it is compiled; the
//! list of files is that of the files there are; and the texts by which one looks for a symptom are those that one sees.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_link_leads_somewhere() {
    let mut lost = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let is_there = match fs::read_to_string(&target) {
                Ok(text) => heading.is_empty() || headings(&text).any(|it| it == heading),
                Err(_) => target.exists(),
            };
            if !is_there {
                lost.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn links_of_packed_pages_lead_to_packed_files() {
    let packed = packed();
    let mut lost = Vec::new();
    for page in packed.iter().filter(|file| file.extension() == Some("md".as_ref())) {
        for link in links(&fs::read_to_string(root().join(page)).unwrap()) {
            let file = link.split('#').next().unwrap();
            let target = root().join(page).parent().unwrap().join(file).canonicalize();
            let target =
                target.ok().and_then(|target| Some(target.strip_prefix(root().canonicalize().ok()?).ok()?.to_owned()));
            // A link to a folder is one to what is in it.
            let is_packed = target.is_some_and(|target| packed.iter().any(|it| it.starts_with(&target)));
            if !file.is_empty() && !is_packed {
                lost.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn every_page_with_rust_in_it_is_compiled() {
    let compiled = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let has_rust = fs::read_to_string(&page).unwrap().contains("```rust");
        assert!(!has_rust || compiled.contains(&format!("\"../{name}\"")), "{name} is not in the list of src/lib.rs");
    }
}

#[test]
fn the_tests_that_the_manual_shows_are_run() {
    let page = fs::read_to_string(root().join("docs/manual/testing.md")).unwrap();
    let (_, run) = include_str!("it/manual.rs").split_once("\n\n").unwrap();
    assert!(page.contains(&format!("```rust,no_run\n{run}```\n")), "tests/it/manual.rs is not what the page shows");
}

#[test]
fn the_list_of_files_has_those_that_are_there_and_no_others() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let named: Vec<&str> = page.split('`').filter(|text| text.ends_with(".rs") || text.ends_with('/')).collect();
    let files = sources(&root().join("src"));
    for file in fs::read_dir(root().join("src")).unwrap() {
        let stem = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let is_named = named.iter().any(|name| name.split(['.', '/']).next() == Some(&stem));
        assert!(is_named, "src/{stem} is not in docs/architecture.md");
    }
    for name in named.iter().filter(|name| name.ends_with(".rs") && !name.contains('*')) {
        let is_there = files.iter().any(|file| file.ends_with(name)) || root().join(name).exists();
        assert!(is_there, "there is no {name}, which docs/architecture.md names");
    }
}

#[test]
fn the_symptoms_are_in_the_words_of_the_crate() {
    let page = fs::read_to_string(root().join("docs/manual/troubleshooting.md")).unwrap();
    let files = sources(&root().join("src"));
    let texts: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    // Long texts go on in the next line.
    let texts: String = texts.split("\\\n").map(str::trim_start).collect();
    let quoted = page.lines().filter(|line| line.starts_with("| `")).flat_map(|line| {
        let symptom = line.split(" | ").next().unwrap_or_default();
        symptom.split('`').skip(1).step_by(2).flat_map(fixed_parts)
    });
    let quoted: Vec<String> = quoted.collect();
    assert!(quoted.len() > 30);
    let unknown: Vec<_> = quoted.iter().filter(|part| !texts.contains(*part)).collect();
    assert!(unknown.is_empty(), "not in src: {unknown:#?}");
}

/// What of a message is the same each time: not its names and numbers.
fn fixed_parts(message: &str) -> Vec<String> {
    let words: Vec<_> = message.split(' ').map(|word| if word.contains('_') { "…" } else { word }).collect();
    let is_end = |letter: char| "…\"(:".contains(letter) || letter.is_ascii_digit();
    words.join(" ").split(is_end).map(|part| part.trim().to_owned()).filter(|part| part.len() > 10).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/manual", "docs/migrating", "fuzz"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let pages: Vec<_> =
        files.map(|file| file.unwrap().path()).filter(|path| path.extension() == Some("md".as_ref())).collect();
    assert!(pages.len() > 10);
    pages
}

/// All files in Rust below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The files that a user of the crate gets.
fn packed() -> Vec<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--offline", "--allow-dirty"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect();
    assert!(files.contains(&PathBuf::from("README.md")));
    files
}

/// Those within the repository.
fn links(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://"))
        .map(Into::into)
}

/// As the links to them are written.
fn headings(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
            .collect::<String>()
            .replace(' ', "-")
    })
}

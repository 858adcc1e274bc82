//! Filters with named levels, and topics made of the names.

use std::collections::HashSet;

use crate::topic::{check_filter, check_topic};
use crate::{Error, Filter};

/// A filter in which levels have names: `dev/{id}/rpc`, and `{rest#}` for all that is left.
#[derive(Debug)]
pub(super) struct Pattern {
    filter: Filter,
    captures: Vec<Capture>,
}

#[derive(Debug)]
struct Capture {
    name: String,
    /// The level, counted in what the filter matches.
    level: usize,
    is_rest: bool,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, Error> {
        let mut captures: Vec<Capture> = Vec::new();
        let levels = text.split('/').enumerate().map(|(level, text)| {
            let Some(name) = name_of(text) else { return text };
            let rest = name.strip_suffix('#');
            let name = rest.unwrap_or(name).to_owned();
            captures.push(Capture { name, level, is_rest: rest.is_some() });
            if rest.is_some() {
                "#"
            } else {
                "+"
            }
        });
        let filter = levels.collect::<Vec<_>>().join("/");
        let mut names = HashSet::new();
        for Capture { name, .. } in &captures {
            if name.is_empty() || name.contains(BRACES) || !names.insert(name) {
                return Err(Error::invalid_filter(text, "each {name} needs a name of its own"));
            }
        }
        if filter.contains(BRACES) {
            return Err(Error::invalid_filter(text, PART_OF_A_LEVEL));
        }
        // What is quoted is the pattern as it was given.
        check_filter(&filter).map_err(|why| Error::invalid_filter(text, why))?;
        let filter = Filter::new(&filter)?;
        let skipped = text.split('/').count() - filter.levels().count();
        captures.iter_mut().for_each(|capture| capture.level -= skipped.min(capture.level));
        Ok(Self { filter, captures })
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// What a topic that the filter matches has for a name; nothing for a rest that is not there.
    pub(super) fn capture<'t>(&self, name: &str, topic: &'t str) -> Option<&'t str> {
        let capture = self.captures.iter().find(|capture| capture.name == name)?;
        match capture.is_rest {
            true => topic.splitn(capture.level + 1, '/').nth(capture.level),
            false => topic.split('/').nth(capture.level),
        }
    }
}

/// A topic in which levels are names of a pattern.
#[derive(Debug)]
pub(super) struct Template(String);

impl Template {
    pub(super) fn new(text: &str, pattern: &Pattern) -> Result<Self, Error> {
        let check = |level| match name_of(level) {
            Some(name) if pattern.captures.iter().any(|capture| capture.name == name) => Ok("x"),
            Some(_) => Err("each {name} must be one of the served pattern"),
            None if level.contains(BRACES) => Err(PART_OF_A_LEVEL),
            None => Ok(level),
        };
        let example = text.split('/').map(check).collect::<Result<Vec<_>, _>>();
        let example = example.and_then(|levels| check_topic(&levels.join("/")));
        example.map_err(|why| Error::invalid_topic(text, why))?;
        Ok(Self(text.to_owned()))
    }

    /// A rest that is not there is left out, with the slash before it.
    pub(super) fn fill(&self, pattern: &Pattern, topic: &str) -> String {
        let level = |level| match name_of(level) {
            Some(name) => pattern.capture(name, topic),
            None => Some(level),
        };
        self.0.split('/').filter_map(level).collect::<Vec<_>>().join("/")
    }
}

fn name_of(level: &str) -> Option<&str> {
    level.strip_prefix('{')?.strip_suffix('}')
}

const BRACES: [char; 2] = ['{', '}'];
/// What looks like a name and would be taken literally is a mistake.
const PART_OF_A_LEVEL: &str = "a {name} must be a whole level: a/{name}/b";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn named_levels_are_wildcards_whose_values_are_found() {
        let pattern = Pattern::new("dev/{id}/rpc/{rest#}").unwrap();
        assert_eq!(*pattern.filter(), "dev/+/rpc/#");
        let capture = |name| pattern.capture(name, "dev/42/rpc/a/b");
        assert_eq!((capture("id"), capture("rest"), capture("x")), (Some("42"), Some("a/b"), None));
        assert_eq!(pattern.capture("rest", "dev/42/rpc"), None);
        let template = Template::new("dev/{id}/res/{rest}", &pattern).unwrap();
        assert_eq!(template.fill(&pattern, "dev/42/rpc/a/b"), "dev/42/res/a/b");
        assert_eq!(template.fill(&pattern, "dev/42/rpc"), "dev/42/res", "'#' also matches its parent");
    }

    #[test]
    fn the_levels_of_a_shared_subscription_count_after_its_group() {
        let pattern = Pattern::new("$share/workers/dev/{id}/rpc").unwrap();
        assert_eq!(*pattern.filter(), "$share/workers/dev/+/rpc");
        assert_eq!(pattern.capture("id", "dev/42/rpc"), Some("42"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "a/{}", "a/{id}/{id}", "a/x{id}", "a/{id}x", "a/{#}", "a/{rest#}/b", "a/{i{d}", "$share/{g}/a"]
        {
            assert_eq!(Pattern::new(text).unwrap_err().kind(), ErrorKind::InvalidFilter, "{text}");
        }
        let pattern = Pattern::new("dev/{id}").unwrap();
        for text in ["", "dev/{name}", "dev/{}", "dev/x{id}", "dev/{id}x", "dev/{id", "dev/+/res", "dev/{id}/#", "a\0"]
        {
            let error = Template::new(text, &pattern).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTopic, "{text}");
        }
    }

    #[test]
    fn a_refusal_quotes_what_was_written() {
        let refusal = Pattern::new("a/{id}/b#").unwrap_err().to_string();
        assert!(refusal.contains("\"a/{id}/b#\"") && refusal.contains("'#'"), "{refusal}");
        let refusal = Template::new("a/{id}/+", &Pattern::new("a/{id}").unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("\"a/{id}/+\""), "{refusal}");
    }
}

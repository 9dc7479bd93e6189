//! Whatever a file says, reading it ends, without a panic, in a configuration or in errors with places.

use std::path::Path;

use gatepost::config;
use proptest::prelude::*;

const WHOLE: &str = include_str!("../config/gatepost.toml");

/// The shipped file with its examples in effect: every key of the contract.
fn every_key() -> String {
    let example = |line: &'static str| match line.strip_prefix('#') {
        Some(example) if !example.starts_with(' ') => example,
        _ => line,
    };
    WHOLE.lines().map(example).collect::<Vec<_>>().join("\n")
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match config::parse(text, "f.toml", Path::new("/")) {
        Ok(loaded) => {
            let printed = loaded.config.to_toml();
            let again = config::parse(&printed, "printed.toml", Path::new("/"));
            prop_assert!(again.is_ok(), "{}\n{}", again.unwrap_err(), printed);
        }
        Err(errors) => {
            let text_lines = text.lines().count();
            prop_assert!(!errors.all().is_empty());
            for error in errors.all() {
                let Some(excerpt) = &error.excerpt else { return Err(TestCaseError::fail("an error without a place")) };
                prop_assert!((1..=text_lines + 1).contains(&excerpt.line) && excerpt.column >= 1, "{}", error);
                prop_assert!(excerpt.indent <= excerpt.text.chars().count(), "{}", error);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        check(&text)?;
    }

    #[test]
    fn text_that_looks_like_toml(lines in prop::collection::vec(r#"(\[\[?(device|broker|gateway)(\.[a-z]{1,3})?\]?\]|(publish|subscribe|tcp|framing|name|topic) = (["'{\[][^\n]{0,20}|[0-9tf]{1,5}))"#, 0..12)) {
        check(&lines.join("\n"))?;
    }

    /// Cuts a piece out of the full file and puts something else there.
    #[test]
    fn the_full_file_with_damage(at in any::<prop::sample::Index>(), length in 0usize..40, put in "[\\PC\n]{0,10}") {
        let text = every_key();
        let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
        let first = at.index(starts.len());
        let end = starts.get(first + length).copied().unwrap_or(text.len());
        check(&format!("{}{put}{}", &text[..starts[first]], &text[end..]))?;
    }

    /// Another value for one key of the full file.
    #[test]
    fn the_full_file_with_another_value(line in any::<prop::sample::Index>(), value in r#"("\PC{0,12}"|-?[0-9]{1,20}|true|\[\]|\{\}|\{ hex = "[0-9a-f ]{0,6}" \})"#) {
        let text = every_key();
        let lines: Vec<&str> = text.lines().collect();
        let chosen = line.index(lines.len());
        let changed = lines.iter().enumerate().map(|(index, line)| match line.split_once('=') {
            Some((key, _)) if index == chosen => format!("{key}= {value}"),
            _ => (*line).to_owned(),
        });
        check(&changed.collect::<Vec<_>>().join("\n"))?;
    }
}

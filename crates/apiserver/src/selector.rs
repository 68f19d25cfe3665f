//! Label and field selectors: parsing and matching. They see labels and JSON, not how objects are stored.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::resource::Kind;
use crate::status::Status;
use crate::store::Object;

/// What a list, watch or deletecollection is restricted to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Parses both selectors; empty text selects everything. A malformed selector is a 400.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Selector, Status> {
        Ok(Selector { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    /// True if every object is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.labels.iter().all(|r| r.matches(&object.labels)) && self.fields_match(object)
    }

    fn fields_match(&self, object: &Object) -> bool {
        let mut parsed: Option<Value> = None;
        self.fields.iter().all(|term| {
            let found = match term.path.as_str() {
                "metadata.name" => object.name == term.value,
                "metadata.namespace" => object.namespace == term.value,
                path => field(parsed.get_or_insert_with(|| object.bare()), path) == term.value,
            };
            found == term.equal
        })
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(set) => value.is_some_and(|v| set.contains(v)),
            Test::NotIn(set) => value.is_none_or(|v| !set.contains(v)),
            Test::Greater(bound) => number().is_some_and(|n| n > *bound),
            Test::Less(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// The text of the field at a dotted path; absent is empty.
fn field(value: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(value, |at, name| at.get(name));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ if path == "spec.unschedulable" => "false".to_owned(),
        _ => String::new(),
    }
}

fn selectable(kind: &Kind) -> &'static [&'static str] {
    match kind.plural.as_str() {
        "nodes" => &["spec.unschedulable"],
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "services" => &["spec.clusterIP", "spec.type"],
        "events" if kind.group.is_empty() => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "events" => {
            &["regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "reason", "type"]
        }
        _ => &[],
    }
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldTerm>, Status> {
    let mut terms = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
            (path, false, value)
        } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (path, true, value)
        } else {
            return Err(Status::bad_request(format!(
                "invalid selector: '{text}'; can't understand '{part}'"
            )));
        };
        let known = matches!(path, "metadata.name" | "metadata.namespace")
            || selectable(kind).contains(&path)
            || kind.custom.as_ref().is_some_and(|c| c.selectable.iter().any(|s| s == path));
        if !known {
            return Err(Status::bad_request(format!("field label not supported: {path}")));
        }
        terms.push(FieldTerm { path: path.to_owned(), value: value.to_owned(), equal });
    }
    Ok(terms)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn shown(&self) -> &str {
        match self {
            Token::Word(word) => word,
            Token::Sign(sign) => sign,
            Token::End => "",
        }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(w) if w == word)
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: &[&str] = &["==", "!=", "=", "!", ",", "(", ")", ">", "<"];
    let mut rest = text.trim_start();
    let mut found = Vec::new();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push(Token::Sign(sign));
            rest = rest[sign.len()..].trim_start();
            continue;
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(rest.len());
        found.push(Token::Word(rest[..end].to_owned()));
        rest = rest[end..].trim_start();
    }
    found.push(Token::End);
    found
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn fail<T>(found: &Token, expected: &str) -> Result<T, Status> {
        Err(Status::bad_request(format!("found '{}', expected: {expected}", found.shown())))
    }

    fn requirement(&mut self) -> Result<Requirement, Status> {
        match self.next() {
            Token::Sign("!") => match self.next() {
                Token::Word(key) => Ok(Requirement { key, test: Test::Absent }),
                other => Parser::fail(&other, "identifier"),
            },
            Token::Word(key) => {
                let test = self.test()?;
                Ok(Requirement { key, test })
            }
            other => Parser::fail(&other, "!, identifier, or 'end of string'"),
        }
    }

    fn test(&mut self) -> Result<Test, Status> {
        match self.peek().clone() {
            Token::End | Token::Sign(",") => Ok(Test::Exists),
            Token::Sign("=" | "==") => {
                self.next();
                Ok(Test::In(vec![self.exact()?]))
            }
            Token::Sign("!=") => {
                self.next();
                Ok(Test::NotIn(vec![self.exact()?]))
            }
            Token::Sign(sign @ (">" | "<")) => {
                self.next();
                let word = self.exact()?;
                let bound = word.parse().map_err(|_| {
                    Status::bad_request(format!(
                        "for '{sign}' operators the value must be an integer: {word:?}"
                    ))
                })?;
                Ok(if sign == ">" { Test::Greater(bound) } else { Test::Less(bound) })
            }
            word if word.is_word("in") => {
                self.next();
                Ok(Test::In(self.set()?))
            }
            word if word.is_word("notin") => {
                self.next();
                Ok(Test::NotIn(self.set()?))
            }
            other => Parser::fail(&other, "in, notin, =, ==, !=, gt, lt"),
        }
    }

    fn exact(&mut self) -> Result<String, Status> {
        match self.peek().clone() {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word)
            }
            other => Parser::fail(&other, "identifier"),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, Status> {
        if self.next() != Token::Sign("(") {
            return Parser::fail(&self.tokens[self.at - 1], "'('");
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => values.push(word),
                Token::Sign(",") => {}
                Token::Sign(")") => return Ok(values),
                other => return Parser::fail(&other, "',', or ')'"),
            }
        }
    }
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, Status> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut found = Vec::new();
    if *parser.peek() == Token::End {
        return Ok(found);
    }
    loop {
        found.push(parser.requirement()?);
        match parser.next() {
            Token::End => return Ok(found),
            Token::Sign(",") => {}
            other => return Parser::fail(&other, "',' or 'end of string'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse_labels(selector).unwrap().iter().all(|r| r.matches(&labels))
    }

    #[test]
    fn label_selectors() {
        let labels = [("site", "a"), ("n", "5")];
        for yes in
            ["", "site", "site=a", "site==a,n", "site in (b, a)", "!x", "x!=1", "n>4,n<6", "x notin (a)"]
        {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["x", "site=b", "!site", "site!=a", "site notin (a,b)", "n>5", "site in ()"] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn malformed_label_selectors() {
        for bad in ["==", "a=b,", "a in b", "a in (b", "a b", "a>x"] {
            assert_eq!(parse_labels(bad).err().map(|s| s.code), Some(400), "{bad}");
        }
    }
}

//! A field of an object: its value, and its path for messages such as
//! `spec.targets[2].suffixes[0] is "::/55", but a part of a /56 has a length from 56 to 128`.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::Value;

/// The problems of an object, one sentence each.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<String>>);

impl Problems {
    /// Returns all problems, in the order of the checks.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    value: &'a Value,
    path: Path<'a>,
    problems: &'a Problems,
}

/// The path of a field. It becomes a text only in a message.
#[derive(Clone, Copy, Debug)]
enum Path<'a> {
    Top(&'a str),
    Field(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Top(name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(list, at) => write!(f, "{list}[{at}]"),
        }
    }
}

/// The end of a message: why a value is refused.
#[derive(Debug)]
pub struct But(String);

impl<E: Display> From<E> for But {
    fn from(error: E) -> Self {
        But(error.to_string())
    }
}

impl<'a> Field<'a> {
    /// The field with this name at the top of an object. Problems with it and inside it are added to `problems`.
    pub fn top(name: &'a str, value: &'a Value, problems: &'a Problems) -> Self {
        Field {
            value,
            path: Path::Top(name),
            problems,
        }
    }

    /// The field with this name in a map.
    pub fn get<'b>(&'b self, name: &'b str) -> Field<'b> {
        let path = Path::Field(&self.path, name);
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.push(path.to_string()));
        Field {
            value: &self.value[name],
            path,
            problems: self.problems,
        }
    }

    /// Reads its value as a list. Returns the elements; none if it is absent. `of` names the elements in messages.
    pub fn list<'b>(&'b self, of: &str, max: usize) -> impl Iterator<Item = Field<'b>> + use<'a, 'b> {
        if !self.value.is_array() && !self.is_absent() {
            self.refuse(format_args!("it must be a list of {of}"));
        }
        let values = self.value.as_array().map_or(&[][..], Vec::as_slice);
        if values.len() > max {
            self.note(format_args!(
                "has {} entries, but at most {max} are taken",
                values.len()
            ));
        }
        values.iter().take(max).enumerate().map(|(at, value)| Field {
            value,
            path: Path::Element(&self.path, at),
            problems: self.problems,
        })
    }

    /// Its value.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether it is missing or `null`.
    pub fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// Reads its value by a rule; `None` if the rule refuses it.
    pub fn read<T>(&self, rule: impl FnOnce(&'a Value) -> Result<T, But>) -> Option<T> {
        rule(self.value).map_err(|But(but)| self.refuse(but)).ok()
    }

    /// Reads a text in the form of `T`.
    pub fn parse<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.read(parse)
    }

    /// Reads a text that `is_good`.
    pub fn text(&self, is_good: impl Fn(&str) -> bool, but: impl Display) -> Option<&'a str> {
        self.read(|value| Ok(value.as_str().filter(|text| is_good(text)).ok_or(but)?))
    }

    /// Reads a whole number that may be absent; `unit` is empty or such as ` of seconds`.
    pub fn number(&self, range: RangeInclusive<u32>, unit: &str) -> Option<u32> {
        if self.is_absent() {
            return None;
        }
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok().filter(|n| range.contains(n));
        let but = format_args!(
            "it must be a whole number{unit} from {} to {}",
            range.start(),
            range.end()
        );
        self.read(|value| Ok(number(value).ok_or(but)?))
    }

    /// Refuses its value, with the reason: it is this, `but` it must be something else.
    pub fn refuse(&self, but: impl Display) {
        self.note(format_args!("is {}, but {but}", shown(self.value)));
    }

    /// Refuses a field that only other objects have.
    pub fn must_be_absent(&self, but: impl Display) {
        if !self.is_absent() {
            self.refuse(format_args!("{but}: leave it out"));
        }
    }

    /// Adds a problem with it.
    pub fn note(&self, what: impl Display) {
        self.problems.0.borrow_mut().push(format!("{} {what}", self.path));
    }
}

/// Reads a text in the form of `T`.
///
/// # Errors
/// The error of `T`, for values of other types as well: no `T` takes the empty text that stands for them.
pub fn parse<T: FromStr<Err: Display>>(value: &Value) -> Result<T, But> {
    Ok(value.as_str().unwrap_or_default().parse()?)
}

/// A value as a message shows it, which is short.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "missing".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
        Value::String(text) if text.len() > 64 => "a long text".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
thread_local! {
    /// The paths of the fields that this thread asked for.
    static ASKED: RefCell<Vec<String>> = RefCell::default();
}

/// The fields that `read` asks for, whether they are there or not; `[]` stands for any place in a list.
#[cfg(test)]
pub fn asked_for(read: impl FnOnce()) -> std::collections::BTreeSet<String> {
    ASKED.take();
    read();
    let places = |path: String| path.replace(|c: char| c.is_ascii_digit(), "");
    ASKED.take().into_iter().map(places).collect()
}

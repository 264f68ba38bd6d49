//! Decoding with bounds: whatever an answer holds, what is kept of it is small.
//!
//! Answers are decoded straight from the connection. Unknown fields are skipped as they come by, so
//! they cost time and no memory. What is kept is counted against an allowance for the whole answer.

use std::cell::Cell;
use std::fmt;
use std::io::{BufReader, Read};
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Values (strings, numbers, lists, maps) kept of one answer: some 10 MB at the very worst.
const MOST_VALUES: usize = 100_000;
/// A longer text is cut off here: no field that k6u reads may be as long.
const MOST_TEXT: usize = 1024;
/// Nesting beyond this is skipped: no field that k6u reads is as deep.
const MOST_DEPTH: usize = 8;

thread_local! {
    static ALLOWANCE: Cell<usize> = const { Cell::new(MOST_VALUES) };
}

/// Starts counting afresh: to be called before each answer, or file, is decoded.
pub fn reset_allowance() {
    ALLOWANCE.set(MOST_VALUES);
}

/// Decodes one answer, or any other JSON, with an allowance of its own.
///
/// The reader is of one type for all, so that each decoder is in the binary once.
///
/// # Errors
/// Those of reading, what is no JSON, and what is of another type than `T`.
pub fn decode<T: DeserializeOwned>(reader: &mut dyn Read) -> serde_json::Result<T> {
    decode_with(PhantomData, reader)
}

/// The same for what is more than a type: a seed says what is looked for.
///
/// # Errors
/// As those of [`decode`].
pub fn decode_with<S: DeserializeSeed<'static>>(seed: S, reader: &mut dyn Read) -> serde_json::Result<S::Value> {
    reset_allowance();
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(4096, reader));
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn spend<E: de::Error>() -> Result<(), E> {
    let left = ALLOWANCE.get().checked_sub(1);
    let left = left.ok_or_else(|| E::custom(format!("it holds more than {MOST_VALUES} values")))?;
    ALLOWANCE.set(left);
    Ok(())
}

/// A value of whatever type, bounded in size and depth: for fields that are checked by hand, because
/// an object may be older than its schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounded(pub Value);

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed(0).deserialize_value(deserializer).map(Bounded)
    }
}

/// The depth at which a value is.
#[derive(Clone, Copy)]
struct Seed(usize);

impl Seed {
    fn deserialize_value<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        spend()?;
        if self.0 > MOST_DEPTH {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize_value(deserializer)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(cut(value).to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Seed(self.0 + 1))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Text(key)) = entries.next_key()? {
            map.insert(key, entries.next_value_seed(Seed(self.0 + 1))?);
        }
        Ok(Value::Object(map))
    }
}

/// What is kept of a text: its first 1024 bytes at most.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

/// A string of bounded length; a value of another type counts as an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        spend()?;
        match deserializer.deserialize_any(Seed(MOST_DEPTH))? {
            Value::String(text) => Ok(Text(text)),
            _ => Ok(Text::default()),
        }
    }
}

/// A `T` from a map; a value of any other type counts as an absent one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FromMap<T>(pub T);

/// The first `MOST` elements of a list; a value of any other type counts as an empty one.
#[derive(Clone, Debug, PartialEq)]
pub struct UpTo<T, const MOST: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for FromMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for UpTo<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient(PhantomData))
    }
}

impl<T, const MOST: usize> Default for UpTo<T, MOST> {
    fn default() -> Self {
        UpTo(Vec::new())
    }
}

/// What is made of a map or a list. Whichever is not wanted is skipped.
trait Shape<'de>: Default {
    fn from_map<A: MapAccess<'de>>(mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }

    fn from_list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

impl<'de, T: Deserialize<'de> + Default> Shape<'de> for FromMap<T> {
    fn from_map<A: MapAccess<'de>>(entries: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(FromMap)
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Shape<'de> for UpTo<T, MOST> {
    fn from_list<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let mut list = Vec::new();
        while list.len() < MOST {
            match items.next_element()? {
                Some(item) => list.push(item),
                None => return Ok(UpTo(list)),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(UpTo(list))
    }
}

struct Lenient<T>(PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for Lenient<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
        T::from_map(entries)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::from_list(items)
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<T, E> {
        Ok(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bounded(text: &str) -> Result<Value, String> {
        reset_allowance();
        serde_json::from_str::<Bounded>(text)
            .map(|b| b.0)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn values_of_every_type() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,1.5,"x",{"b":{}}]}"#;
        assert_eq!(
            bounded(text).unwrap(),
            json!({"a": [null, true, -1, 18446744073709551615u64, 1.5, "x", {"b": {}}]})
        );
    }

    #[test]
    fn what_is_too_deep_is_skipped() {
        let text = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let mut value = bounded(&text).unwrap();
        for _ in 0..=MOST_DEPTH {
            value = value.as_array().unwrap()[0].clone();
        }
        assert_eq!(value, Value::Null);
    }

    #[test]
    fn what_is_too_long_is_cut_or_refused() {
        let long = format!("\"{}\"", "ü".repeat(5000));
        assert_eq!(bounded(&long).unwrap().as_str().unwrap().len(), MOST_TEXT);
        let many = format!("[0{}]", ",0".repeat(MOST_VALUES));
        assert!(
            bounded(&many)
                .unwrap_err()
                .starts_with("it holds more than 100000 values")
        );
    }

    #[test]
    fn yaml_gives_the_same_values() {
        reset_allowance();
        let value: Bounded = serde_yaml::from_str("a: [1, x, null, 1.5, true]").unwrap();
        assert_eq!(value.0, json!({"a": [1, "x", null, 1.5, true]}));
    }

    #[test]
    fn a_text_of_another_type_is_empty() {
        for text in ["1", "null", "{}", "[[[1]]]", "true"] {
            assert_eq!(serde_json::from_str::<Text>(text).unwrap().0, "", "{text}");
        }
        assert_eq!(serde_json::from_str::<Text>("\"a\"").unwrap().0, "a");
    }

    #[test]
    fn what_is_no_list_counts_as_an_empty_one_and_a_long_one_is_cut() {
        let read = |text: &str| serde_json::from_str::<UpTo<u8, 3>>(text).unwrap().0;
        assert_eq!(read("[1,2]"), [1, 2]);
        assert_eq!(read(r#"[1,2,3,"x",{}]"#), [1, 2, 3]);
        for text in ["null", "1", "-1", "1.5", "true", "\"x\"", r#"{"a":[1]}"#] {
            assert!(read(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_no_map_counts_as_absent() {
        #[derive(Default, Deserialize)]
        struct Status {
            a: u8,
        }
        let read = |text: &str| serde_json::from_str::<FromMap<Status>>(text).unwrap().0.a;
        assert_eq!(read(r#"{"a":7,"b":[]}"#), 7);
        for text in ["null", "1", "-1", "1.5", "true", "\"x\"", "[1,{},[2]]"] {
            assert_eq!(read(text), 0, "{text}");
        }
    }
}

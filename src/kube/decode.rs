//! Decoding with bounds: whatever an answer holds, what is kept of each value in it is small.
//!
//! Answers are decoded straight from the connection. Unknown fields are skipped as they come by, so
//! they cost time and no memory.

use std::cell::Cell;
use std::fmt;
use std::io::{BufReader, Read};

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What is kept of one [`Bounded`] value: some 10 MB at the very worst. No object that its schema accepts
/// has as many values.
pub const MOST_VALUES: usize = 100_000;
/// A longer text is cut off here: no field that k6u reads may be as long.
const MOST_TEXT: usize = 1024;
/// Nesting beyond this is skipped: no field that k6u reads is as deep.
const MOST_DEPTH: usize = 8;

/// Decodes one answer, or any other JSON.
///
/// The reader is of one type for all, so that each decoder is in the binary once.
///
/// # Errors
/// Those of reading, what is no JSON, and what is of another type than `T`.
pub fn decode<T: DeserializeOwned>(reader: &mut dyn Read) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(4096, reader));
    let value = T::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// For a field that may be `null` in place of being absent.
///
/// # Errors
/// Those of `T`.
pub fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A value of whatever type, bounded in size and depth: for fields that are checked by hand, because
/// an object may be older than its schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounded {
    /// What was read.
    pub value: Value,
    /// It holds more than [`MOST_VALUES`], of which the rest was skipped.
    pub is_cut: bool,
}

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = Cell::new(0);
        let seed = Seed {
            depth: 0,
            count: &count,
        };
        Ok(Bounded {
            value: seed.deserialize(deserializer)?,
            is_cut: seed.is_over(),
        })
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Seed<'a> {
    depth: usize,
    /// How many values were read so far, with those around this one.
    count: &'a Cell<usize>,
}

impl Seed<'_> {
    fn is_over(self) -> bool {
        self.count.get() > MOST_VALUES
    }

    fn below(self) -> Self {
        Seed {
            depth: self.depth + 1,
            ..self
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count.set(self.count.get().saturating_add(1));
        if self.depth > MOST_DEPTH || self.is_over() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
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
        while let Some(item) = items.next_element_seed(self.below())? {
            if !self.is_over() {
                list.push(item);
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self.below())?;
            if !self.is_over() {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

/// What is kept of a text: its first 1024 bytes at most.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bounded(text: &str) -> Result<Value, String> {
        serde_json::from_str::<Bounded>(text)
            .map(|bounded| bounded.value)
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
    fn what_is_too_long_is_cut() {
        let long = format!("\"{}\"", "ü".repeat(5000));
        assert_eq!(bounded(&long).unwrap().as_str().unwrap().len(), MOST_TEXT);
        let list = |count: usize| {
            let text = format!("{{\"a\":[0{}],\"b\":1}}", ",0".repeat(count - 1));
            serde_json::from_str::<Bounded>(&text).unwrap()
        };
        // The map, the list and "b" are values, too.
        let whole = list(MOST_VALUES - 3);
        assert!(!whole.is_cut && whole.value["b"] == 1);
        for count in [MOST_VALUES - 2, MOST_VALUES, 3 * MOST_VALUES] {
            let cut = list(count);
            assert!(cut.is_cut && cut.value["b"].is_null(), "{count}");
            assert!(
                cut.value["a"].as_array().is_none_or(|list| list.len() <= MOST_VALUES),
                "{count}"
            );
        }
    }

    #[test]
    fn each_value_is_bounded_on_its_own() {
        let text = format!("[[0{0}],[1{0}],2]", ",0".repeat(MOST_VALUES * 2 / 3));
        let all: Vec<Bounded> = serde_json::from_str(&text).unwrap();
        assert!(all.iter().all(|one| !one.is_cut));
    }

    #[test]
    fn yaml_gives_the_same_values() {
        let value: Bounded = serde_yaml::from_str("a: [1, x, null, 1.5, true]").unwrap();
        assert_eq!(value.value, json!({"a": [1, "x", null, 1.5, true]}));
    }
}

//! Decoding with bounds: an answer is in memory as a whole, and only a limited part of its values is kept.
//!
//! Unknown fields are skipped. The rest is counted against a budget, in bytes as the allocator gives them:
//! [`MAX_KEPT`] for an answer and its values, [`MAX_ITEM`] for one object of a list.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Bytes of an answer and of what is kept of it: the lists of a cluster with a thousand nodes, or an object with 50,000
/// CIDRs.
pub const MAX_KEPT: usize = 5632 * 1024;
/// Bytes kept of one object in a list; a larger one is that object's failure.
pub const MAX_ITEM: usize = 5 * 1024 * 1024;
/// Bytes kept of a text: no field that k6u reads may be longer, but for [`Budget::with_long_texts`].
const MAX_TEXT: usize = 1024;
/// Bytes kept of a text that k6u writes back. The longest are messages in conditions of others, of 32,768 characters at
/// most (Kubernetes, apimachinery, metav1.Condition).
const MAX_LONG_TEXT: usize = 4 * 32_768;
/// Nesting beyond this is skipped: no field that k6u reads is as deep.
const MAX_DEPTH: usize = 8;
/// The depth of the elements of lists in the entries of a spec: `spec.targets[].suffixes[]`.
const ELEMENT_DEPTH: usize = 4;

/// Bytes of an answer; a longer one is an error. etcd takes objects of 1.5 MiB at most.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Bytes that serde_json may take while it decodes: for a text with an escape, and one for each level of nesting that it
/// skips. The annotations of an object have 256 KiB at most.
const MAX_SCRATCH: usize = 512 * 1024;

const VALUE: usize = size_of::<Value>();
/// A vector with as many values grows in place, and what it does not use yet takes no memory.
const LONG: usize = 128 * 1024 / VALUE;
/// The heap's part of a text, beside its bytes.
const TEXT: usize = 24;

thread_local! {
    static BUDGET: Cell<Budget> = const { Cell::new(Budget::of(usize::MAX)) };
}

/// The rest of what may be kept of the response that is being decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// In bytes.
    left: usize,
    /// The part of it that is not for elements of lists in the entries of a spec.
    reserve: usize,
    /// Of a text, in bytes.
    max_text: usize,
    /// Whether something was skipped.
    is_cut: bool,
}

impl Budget {
    /// This many bytes, of which the start of each text is kept.
    pub const fn of(bytes: usize) -> Self {
        Budget {
            left: bytes,
            reserve: 0,
            max_text: MAX_TEXT,
            is_cut: false,
        }
    }

    /// Adds bytes for all values above `ELEMENT_DEPTH`: so a list that is too long is cut before anything else.
    #[must_use]
    pub const fn with_reserve(self, reserve: usize) -> Self {
        let left = self.left + reserve;
        Budget { left, reserve, ..self }
    }

    /// Keeps texts whole, because they are written back.
    #[must_use]
    pub const fn with_long_texts(self) -> Self {
        let max_text = MAX_LONG_TEXT;
        Budget { max_text, ..self }
    }

    /// Decodes with this part of the budget. Returns how much of it that took, and whether something was skipped. A
    /// caller that keeps the result has to [`spend`] as much.
    fn decode<R>(mut self, read: impl FnOnce() -> R) -> (R, usize, bool) {
        let whole = BUDGET.get();
        self.left = self.left.min(whole.left);
        BUDGET.set(self);
        let result = read();
        let rest = BUDGET.replace(whole);
        debug_assert!(rest.left <= self.left, "a budget does not grow");
        (result, self.left - rest.left, rest.is_cut || rest.left == 0)
    }
}

/// Takes bytes from the budget of the response that is being decoded.
pub fn spend(bytes: usize) {
    let budget = BUDGET.get();
    if budget.left < usize::MAX {
        let left = budget.left.saturating_sub(bytes);
        BUDGET.set(Budget { left, ..budget });
    }
}

/// Whether the budget is spent for values at this depth. They are skipped then.
fn is_spent(depth: usize) -> bool {
    let budget = BUDGET.get();
    let is_spent = budget.left == 0 || depth >= ELEMENT_DEPTH && budget.left < budget.reserve;
    let is_cut = budget.is_cut || is_spent;
    BUDGET.set(Budget { is_cut, ..budget });
    is_spent
}

/// Decodes one answer, or any other JSON.
///
/// # Errors
/// If it is not JSON, of another type than `T`, or too large.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    check(body).map_err(serde::de::Error::custom)?;
    Budget::of(MAX_KEPT - body.len())
        .decode(|| serde_json::from_slice(body))
        .0
}

/// Checks what decoding takes, even of what it skips.
fn check(body: &[u8]) -> Result<(), &'static str> {
    if body.len() <= MAX_SCRATCH {
        return Ok(());
    }
    if body.len() > MAX_ANSWER {
        return Err("it is longer than 4 MiB");
    }
    let (mut depth, mut text, mut is_escaped) = (0_usize, None, false);
    for (at, byte) in body.iter().enumerate() {
        match (byte, text) {
            (b'"', None) => text = Some(at),
            (b'"', Some(_)) if !is_escaped => text = None,
            (b'[' | b'{', None) => depth += 1,
            (b']' | b'}', None) => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_escaped = *byte == b'\\' && !is_escaped;
        if depth > MAX_SCRATCH {
            return Err("it is nested in more than 524288 levels");
        }
        if text.is_some_and(|start| at - start > MAX_SCRATCH) {
            return Err("a text in it is longer than 512 KiB");
        }
    }
    Ok(())
}

/// Reads a field that may be `null` instead of absent.
///
/// # Errors
/// The errors of `T`.
pub fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a map as `T`; `None` for anything else.
///
/// # Errors
/// The errors of `T`.
pub fn map_only<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(MapOnly(PhantomData))
}

struct MapOnly<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MapOnly<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<T>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Option<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Some)
    }
}

/// Reads a map by name, with as many entries as the budget allows; anything else is an empty map.
///
/// # Errors
/// The errors of `V`.
pub fn entries<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    Ok(map_only::<D, Entries<V>>(deserializer)?.map_or_else(BTreeMap::new, |entries| entries.0))
}

struct Entries<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<V> {
    type Value = Entries<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<V>, A::Error> {
        let mut all = BTreeMap::new();
        // A node of a BTreeMap has room for eleven, and is full by half at least.
        let entry = size_of::<String>() + size_of::<V>();
        spend(9 * entry);
        while let Some(Text(key)) = map.next_key()? {
            spend(2 * entry);
            let value = map.next_value()?;
            if !is_spent(0) {
                all.insert(key, value);
            }
        }
        Ok(Entries(all))
    }
}

/// A text of which only the start is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                let text = cut(text);
                spend(TEXT + text.len());
                Ok(Text(text.to_string()))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// Reads a text and keeps its start.
///
/// # Errors
/// If it is not a text.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Text::deserialize(deserializer)?.0)
}

/// Reads a list as a whole.
///
/// # Errors
/// The errors of `T`. An error as well if the list is larger than the budget.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(ListVisitor(PhantomData))
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while !is_spent(0) {
            // The vector is full by half at least.
            spend(2 * size_of::<T>());
            match sequence.next_element()? {
                Some(item) => all.push(item),
                None => return Ok(all),
            }
        }
        Err(serde::de::Error::custom(format_args!(
            "the list is too large: {} items take more than {MAX_KEPT} bytes of memory",
            all.len()
        )))
    }
}

/// One item of a list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadItem {
    /// Its name; empty if that cannot be read either.
    pub name: String,
    /// Why it cannot be read.
    pub problem: String,
}

/// An object that a list may hold.
pub trait Item: DeserializeOwned {
    /// Its name.
    ///
    /// # Errors
    /// Why its metadata cannot be read.
    fn name(&self) -> Result<&str, BadItem>;
}

/// Reads a list: each item on its own, as many as the budget allows.
///
/// # Errors
/// If the list is too large as a whole.
pub fn items<'de, D: Deserializer<'de>, T: Item>(deserializer: D) -> Result<Vec<Result<T, BadItem>>, D::Error> {
    let all = Option::<Items<T>>::deserialize(deserializer)?.map_or_else(Vec::new, |items| items.0);
    Ok(all.into_iter().map(|item| item.0).collect())
}

struct Items<T>(Vec<ReadItem<T>>);

impl<'de, T: Item> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        list(deserializer).map(Items)
    }
}

struct ReadItem<T>(Result<T, BadItem>);

impl<'de, T: Item> Deserialize<'de> for ReadItem<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (item, spent, is_cut) = Budget::of(MAX_ITEM).decode(|| map_only::<D, T>(deserializer));
        let read = match item? {
            None => Err(BadItem {
                name: String::new(),
                problem: "it is not an object".into(),
            }),
            Some(item) => match item.name() {
                Err(bad) => Err(bad),
                Ok(name) if is_cut => Err(BadItem {
                    name: name.into(),
                    problem: format!("it is too large: it takes more than {MAX_ITEM} bytes of memory"),
                }),
                Ok(_) => Ok(item),
            },
        };
        spend(match &read {
            Ok(_) => spent,
            Err(bad) => 2 * TEXT + bad.name.len() + bad.problem.len(),
        });
        Ok(ReadItem(read))
    }
}

/// A value of any type, bounded in size and depth: for fields that are checked by hand, because
/// an object may be older than its schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounded {
    /// The value, as far as it was read.
    pub value: Value,
    /// It is larger than the budget, and the rest was skipped.
    pub is_cut: bool,
}

impl Bounded {
    /// Reads a value with this part of the budget. With a reserve, the value is not counted: the caller keeps only parts of
    /// it, and counts these with [`spend`].
    ///
    /// # Errors
    /// The errors of reading.
    pub fn within<'de, D: Deserializer<'de>>(budget: Budget, deserializer: D) -> Result<Self, D::Error> {
        let (value, spent, is_cut) = budget.decode(|| Seed(0).deserialize(deserializer));
        if budget.reserve == 0 {
            spend(spent);
        }
        let value = value?;
        Ok(Bounded { value, is_cut })
    }
}

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bounded::within(Budget::of(MAX_KEPT), deserializer)
    }
}

/// Reads one value, at this depth.
#[derive(Clone, Copy)]
struct Seed(usize);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if !is_spent(self.0) {
            spend(VALUE);
        }
        if is_spent(self.0) || self.0 > MAX_DEPTH {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
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
        let text = cut(value);
        spend(TEXT + text.len());
        Ok(Value::String(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let below = self.0 + 1;
        // The vector begins with four slots, and is full by half at least.
        spend(2 * VALUE);
        while let Some(item) = items.next_element_seed(Seed(below))? {
            if !is_spent(below) {
                spend(if list.len() < LONG { VALUE } else { 0 });
                list.push(item);
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        // A node of the map has room for eleven entries.
        let entry = size_of::<String>() + size_of::<Value>();
        spend(11 * entry);
        let below = self.0 + 1;
        while let Some(Text(key)) = entries.next_key()? {
            spend(entry);
            let value = entries.next_value_seed(Seed(below))?;
            if !is_spent(below) {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

/// The part of a text that is kept.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(BUDGET.get().max_text)]
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
    fn values_that_are_too_deep_are_skipped() {
        let text = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let mut value = bounded(&text).unwrap();
        for _ in 0..=MAX_DEPTH {
            value = value.as_array().unwrap()[0].clone();
        }
        assert_eq!(value, Value::Null);
    }

    #[test]
    fn values_that_are_too_long_are_cut() {
        let long = format!("\"{}\"", "ü".repeat(MAX_TEXT));
        assert_eq!(bounded(&long).unwrap().as_str().unwrap().len(), MAX_TEXT);
        let list = |count: usize| {
            let text = format!("{{\"a\":[0{}],\"b\":1}}", ",0".repeat(count - 1));
            serde_json::from_str::<Bounded>(&text).unwrap()
        };
        let room = MAX_KEPT / VALUE;
        let whole = list(room - LONG - 100);
        assert!(!whole.is_cut && whole.value["b"] == 1);
        for count in [room, 3 * room] {
            let cut = list(count);
            assert!(cut.is_cut && cut.value["b"].is_null(), "{count}");
            assert!(
                cut.value["a"].as_array().is_none_or(|list| list.len() <= room),
                "{count}"
            );
        }
    }

    /// A value with a share of 10,000 bytes, and a reserve.
    struct Shared(Bounded);

    impl<'de> Deserialize<'de> for Shared {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Bounded::within(Budget::of(10_000).with_reserve(1_000), deserializer).map(Shared)
        }
    }

    #[test]
    fn an_element_that_is_cut_is_noted() {
        let mut cut = 0;
        for count in 1..200 {
            let elements = vec![r#""x""#; count].join(",");
            let text = format!(r#"{{"a":[{{"b":[{elements}]}}],"c":1}}"#);
            let Shared(read) = decode(text.as_bytes()).unwrap();
            let list = read.value["a"][0]["b"].as_array().unwrap();
            assert!(read.is_cut || list.len() == count, "{} of {count}", list.len());
            assert_eq!(read.value["c"], 1, "the reserve is for it");
            cut += u32::from(read.is_cut);
        }
        assert!((50..150).contains(&cut), "{cut}");
    }

    #[test]
    fn each_value_is_bounded_on_its_own() {
        let text = format!("[[0{0}],[1{0}],2]", ",0".repeat(MAX_KEPT / VALUE * 2 / 3));
        let all: Vec<Bounded> = serde_json::from_str(&text).unwrap();
        assert!(all.iter().all(|one| !one.is_cut));
    }

    #[test]
    fn the_values_of_an_answer_are_bounded_together() {
        let text = format!("[[0{0}],[1{0}],2]", ",0".repeat(MAX_KEPT / VALUE * 2 / 3));
        let all: Vec<Bounded> = decode(text.as_bytes()).unwrap();
        assert_eq!(
            all.iter().map(|one| one.is_cut).collect::<Vec<_>>(),
            [false, true, true]
        );
        // The next answer has the whole budget again.
        let one: Bounded = decode(&b"[0]"[..]).unwrap();
        assert!(!one.is_cut && BUDGET.get() == Budget::of(usize::MAX));
    }

    #[test]
    fn skipped_values_are_bounded_as_well() {
        let read = |text: &str| decode::<BTreeMap<String, IgnoredAny>>(text.as_bytes()).map_err(|e| e.to_string());
        let of = |start: &str, middle: &str, length: usize, end: &str| {
            let count = (length - start.len() - end.len()) / middle.len();
            format!("{start}{}{end}", middle.repeat(count))
        };
        let (longest, scratch) = (MAX_ANSWER, MAX_SCRATCH);
        for (text, what) in [
            (of("{", " ", longest + 1, "}"), "it is longer than 4 MiB"),
            (
                of(r#"{"a":""#, "x", scratch + 10, r#""}"#),
                "a text in it is longer than 512 KiB",
            ),
            (
                of(r#"{"a":""#, r"\u0000", longest, r#""}"#),
                "a text in it is longer than 512 KiB",
            ),
            (
                of(r#"{""#, r#"\""#, longest, r#"":1}"#),
                "a text in it is longer than 512 KiB",
            ),
            (
                of(r#"{"a":"#, "[", longest, "}"),
                "it is nested in more than 524288 levels",
            ),
        ] {
            assert_eq!(read(&text).unwrap_err(), what);
        }
        for text in [
            of("{", " ", longest, "}"),
            of(r#"{"a":""#, r#"\""#, scratch, r#""}"#),
            of(r#"{"a":["#, r#"["x\"]{","\\"],"#, longest, "0]}"),
            of(r#"{"a":["#, r#"{"metadata":{}},"#, longest, "0]}"),
            of(r#"{"a":"#, "1", longest, "}"),
        ] {
            assert!(read(&text).is_ok(), "{}", &text[..20]);
        }
        let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(MAX_SCRATCH), "]".repeat(MAX_SCRATCH));
        assert_eq!(read(&nested).unwrap_err(), "it is nested in more than 524288 levels");
    }

    #[test]
    fn yaml_gives_the_same_values() {
        let value: Bounded = serde_yaml::from_str("a: [1, x, null, 1.5, true]").unwrap();
        assert_eq!(value.value, json!({"a": [1, "x", null, 1.5, true]}));
    }
}

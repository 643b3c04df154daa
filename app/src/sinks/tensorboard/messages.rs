//! The messages of an event file, as far as they are written. `prost` writes them; numbers are `optional` so that a 0
//! is written, too.
//!
//! Sources: tensorflow `core/util/event.proto`, `core/framework/summary.proto`.

use prost::{Message, Oneof};

/// One record: when it was written, and what it says.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, optional, tag = "1")]
    pub(super) wall_time: Option<f64>,
    #[prost(int64, optional, tag = "2")]
    pub(super) step: Option<i64>,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub(super) what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(super) value: Vec<Value>,
}

/// A point of the curve `tag`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(oneof = "Point", tags = "2, 5")]
    pub(super) point: Option<Point>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Point {
    #[prost(float, tag = "2")]
    Simple(f32),
    #[prost(message, tag = "5")]
    Histogram(HistogramProto),
}

/// Counts of values up to each limit, and sums over all values.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HistogramProto {
    #[prost(double, optional, tag = "1")]
    pub(super) min: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub(super) max: Option<f64>,
    #[prost(double, optional, tag = "3")]
    pub(super) num: Option<f64>,
    #[prost(double, optional, tag = "4")]
    pub(super) sum: Option<f64>,
    #[prost(double, optional, tag = "5")]
    pub(super) sum_squares: Option<f64>,
    #[prost(double, repeated, tag = "6")]
    pub(super) bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    pub(super) bucket: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionLog {
    #[prost(enumeration = "Status", tag = "1")]
    pub(super) status: i32,
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Status {
    Unspecified = 0,
    /// It starts: a reader forgets what older files say from its step on.
    Start = 1,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(step: Option<i64>, what: What) -> Vec<u8> {
        Event { wall_time: Some(1.5), step, what: Some(what) }.encode_to_vec()
    }

    /// Bytes that files have had since the first version.
    #[test]
    fn messages_have_the_bytes_of_older_files() {
        let time = [&[0x09][..], &1.5f64.to_le_bytes()].concat();
        let version = bytes(None, What::FileVersion("brain.Event:2".into()));
        assert_eq!(version, [&time[..], b"\x1a\x0dbrain.Event:2"].concat());
        let start = bytes(Some(300), What::SessionLog(SessionLog { status: Status::Start.into() }));
        assert_eq!(start, [&time[..], b"\x10\xac\x02\x3a\x02\x08\x01"].concat());
        let value = |tag: &str, x: f32| Value { tag: tag.into(), point: Some(Point::Simple(x)) };
        let scalars = bytes(Some(3), What::Summary(Summary { value: vec![value("a", 2.5), value("b", 0.0)] }));
        let points = b"\x2a\x14\x0a\x08\x0a\x01a\x15\x00\x00\x20\x40\x0a\x08\x0a\x01b\x15\x00\x00\x00\x00";
        assert_eq!(scalars, [&time[..], b"\x10\x03", points].concat());
        let histogram = HistogramProto {
            min: Some(0.0),
            max: Some(1.0),
            num: Some(2.0),
            sum: Some(0.0),
            sum_squares: Some(-0.5),
            bucket_limit: vec![1.0],
            bucket: vec![2.0],
        };
        let number = |key: u8, x: f64| [&[key][..], &x.to_le_bytes()].concat();
        let packed = |key: u8, x: f64| [&[key, 8][..], &x.to_le_bytes()].concat();
        let numbers = [number(0x09, 0.0), number(0x11, 1.0), number(0x19, 2.0), number(0x21, 0.0), number(0x29, -0.5)].concat();
        let expected = [numbers, packed(0x32, 1.0), packed(0x3a, 2.0)].concat();
        assert_eq!(histogram.encode_to_vec(), expected);
        let value = Value { tag: "h".into(), point: Some(Point::Histogram(histogram)) };
        assert_eq!(value.encode_to_vec(), [&[0x0a, 1, b'h', 0x2a, expected.len() as u8], &expected[..]].concat());
    }
}

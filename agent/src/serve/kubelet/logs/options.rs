//! What the query of `/containerLogs` asks for (A183), with the kubelet's words for what is wrong.

use hyper::StatusCode;
use jiff::{SignedDuration, Timestamp};
use longshore_core::model::Time;

use super::super::query::Query;
use super::format::Stream;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    /// Lines of the file from its end.
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Timestamp>,
    pub stream: Option<Stream>,
}

const DECODE: (StatusCode, &str) =
    (StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
const INVALID: (StatusCode, &str) =
    (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);

/// # Errors
/// Status and text of the answer.
pub fn parse(query: &Query, now: Time) -> Result<Options, (StatusCode, &'static str)> {
    // Only absence, `false` and `0` are no.
    let flag = |name| query.get(name).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0");
    let number = |name| match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| DECODE),
    };
    // The old name of `tailLines`; `all` is no limit.
    let tail = match query.get("tail") {
        Some("all") => None,
        Some(text) => Some(text.parse::<i64>().map_err(|_| DECODE)?),
        None => number("tailLines")?,
    };
    let (limit, seconds) = (number("limitBytes")?, number("sinceSeconds")?);
    let time = match query.get("sinceTime") {
        None | Some("") => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| DECODE)?),
    };
    let stream = match query.get("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        Some(_) => return Err(INVALID),
    };
    if tail.is_some_and(|lines| lines < 0)
        || limit.is_some_and(|bytes| bytes < 1)
        || seconds.is_some_and(|seconds| seconds < 1)
        || (seconds.is_some() && time.is_some())
        || (tail.is_some() && stream.is_some())
    {
        return Err(INVALID);
    }
    let since = match seconds {
        Some(seconds) => Some(before(now, seconds)),
        None => time,
    };
    Ok(Options {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        tail_lines: tail.and_then(|lines| u64::try_from(lines).ok()),
        limit_bytes: limit.and_then(|bytes| u64::try_from(bytes).ok()),
        since,
        stream,
    })
}

/// As far back as times go.
fn before(now: Time, seconds: i64) -> Timestamp {
    let now = Timestamp::from_millisecond(now.unix_ms()).unwrap_or_default();
    now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Options, (StatusCode, &'static str)> {
        parse(&Query::parse(Some(text)), Time::from_unix_ms(1_000_000))
    }

    #[test]
    fn a183_the_query_of_logs() {
        assert_eq!(parsed("").unwrap(), Options::default());
        let all =
            parsed("follow=true&previous=1&timestamps=&tailLines=5&limitBytes=7&sinceSeconds=10");
        let want = Options {
            follow: true,
            previous: true,
            timestamps: true,
            tail_lines: Some(5),
            limit_bytes: Some(7),
            since: Some(Timestamp::from_second(990).unwrap()),
            stream: None,
        };
        assert_eq!(all.unwrap(), want);
        assert!(!parsed("follow=false&timestamps=0").unwrap().follow);
        assert_eq!(parsed("tail=all&tailLines=3").unwrap().tail_lines, None);
        assert_eq!(parsed("tailLines=0").unwrap().tail_lines, Some(0));
        let time = parsed("sinceTime=2026-11-20T10%3A00%3A00%2B02%3A00").unwrap().since;
        assert_eq!(time, Some("2026-11-20T08:00:00Z".parse().unwrap()));
        assert_eq!(parsed("sinceSeconds=9223372036854775807").unwrap().since, Some(Timestamp::MIN));
    }

    #[test]
    fn a183_a_wrong_query_is_400_or_422() {
        for text in ["tailLines=x", "limitBytes=1e3", "sinceTime=yesterday", "tail=many"] {
            assert_eq!(parsed(text).unwrap_err().0, StatusCode::BAD_REQUEST, "{text}");
        }
        for text in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2026-11-20T10:00:00Z",
            "stream=Both",
            "stream=Stdout&tailLines=1",
        ] {
            assert_eq!(parsed(text).unwrap_err().0, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        }
    }
}

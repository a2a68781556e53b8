//! The query of a request, decoded. The first value of a name counts, as in Go.

pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self { pairs: pairs.into_owned().collect() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// `1`: what the streams' flags are set with.
    pub fn is_one(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }
}

//! Sorted, non-overlapping byte ranges with content.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a range holds: something that can be entered at an offset and continued by a neighbour.
pub(crate) trait Content: Clone {
    /// The content that begins `by` bytes later.
    fn skip(&self, by: u64) -> Self;
    /// Whether `next` is what follows `len` bytes of this, so that both ranges are one.
    fn continued_by(&self, len: u64, next: &Self) -> bool;
}

impl Content for () {
    fn skip(&self, _by: u64) -> Self {}

    fn continued_by(&self, _len: u64, (): &Self) -> bool {
        true
    }
}

/// A position in something linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At(pub u64);

impl Content for At {
    fn skip(&self, by: u64) -> Self {
        At(self.0 + by)
    }

    fn continued_by(&self, len: u64, next: &Self) -> bool {
        self.0 + len == next.0
    }
}

/// A part of a [`RangeMap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span<C> {
    pub start: u64,
    pub len: u64,
    pub content: C,
}

impl<C> Span<C> {
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Byte ranges by their first byte. What is laid last wins.
#[derive(Clone, Debug)]
pub(crate) struct RangeMap<C> {
    spans: BTreeMap<u64, (u64, C)>,
}

impl<C> Default for RangeMap<C> {
    fn default() -> Self {
        Self { spans: BTreeMap::new() }
    }
}

impl<C: Content> RangeMap<C> {
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn count(&self) -> usize {
        self.spans.len()
    }

    pub fn clear(&mut self) {
        self.spans.clear();
    }

    /// The byte after the last one that is held.
    pub fn end(&self) -> u64 {
        self.spans.last_key_value().map_or(0, |(start, (len, _))| start + len)
    }

    pub fn bytes(&self) -> u64 {
        self.spans.values().map(|(len, _)| len).sum()
    }

    /// Whether every byte of the range is held.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for span in self.within(range.clone()) {
            if span.start > at {
                return false;
            }
            at = span.end();
        }
        at >= range.end
    }

    /// Puts content over what is there.
    pub fn lay(&mut self, start: u64, len: u64, content: C) {
        if len == 0 {
            return;
        }
        self.remove(start..start + len);
        let (mut start, mut len, mut content) = (start, len, content);
        if let Some((&before, (before_len, before_content))) = self.spans.range(..start).next_back()
            && before + before_len == start
            && before_content.continued_by(*before_len, &content)
        {
            len += before_len;
            content = before_content.clone();
            start = before;
        }
        if let Some((after_len, after_content)) = self.spans.get(&(start + len))
            && content.continued_by(len, after_content)
        {
            let after_len = *after_len;
            self.spans.remove(&(start + len));
            len += after_len;
        }
        self.spans.insert(start, (len, content));
    }

    /// Removes what the range holds.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        if let Some((&before, (len, content))) = self.spans.range_mut(..range.start).next_back()
            && before + *len > range.start
        {
            let end = before + *len;
            *len = range.start - before;
            if end > range.end {
                let rest = content.skip(range.end - before);
                self.spans.insert(range.end, (end - range.end, rest));
                return;
            }
        }
        while let Some((&start, _)) = self.spans.range(range.clone()).next() {
            if let Some((len, content)) = self.spans.remove(&start)
                && start + len > range.end
            {
                self.spans.insert(range.end, (start + len - range.end, content.skip(range.end - start)));
            }
        }
    }

    /// What the range holds, cut to it, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Span<C>> {
        let Range { start: from, end } = range;
        let to = end.max(from);
        let first = match self.spans.range(..from).next_back() {
            Some((&start, (len, _))) if start + len > from && to > from => start,
            _ => from,
        };
        self.spans.range(first..to).map(move |(&start, (len, content))| {
            let begin = start.max(from);
            Span { start: begin, len: (start + len).min(to) - begin, content: content.skip(begin - start) }
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = Span<C>> {
        self.spans.iter().map(|(&start, (len, content))| Span { start, len: *len, content: content.clone() })
    }

    /// The last span that begins before `offset`.
    pub fn before(&self, offset: u64) -> Option<Span<C>> {
        let (&start, (len, content)) = self.spans.range(..offset).next_back()?;
        Some(Span { start, len: *len, content: content.clone() })
    }
}

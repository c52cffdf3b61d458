//! A table over numbers that are mostly dense, in pages.

use std::collections::HashMap;

/// A value for each number, the default one unless set.
///
/// Numbers of a recorder are dense, so a page is full; a number far away costs a page.
#[derive(Debug)]
pub(super) struct Pages<T> {
    numbers: HashMap<u64, u32>,
    pages: Vec<(u64, Box<[T]>)>,
    /// The page that was used last: mostly that of the next number too.
    last: (u64, u32),
}

impl<T: Copy + Default> Pages<T> {
    pub(super) fn get(&self, number: u64) -> T {
        let page = match number / PAGE {
            page if page == self.last.0 => Some(&self.last.1),
            page => self.numbers.get(&page),
        };
        page.map_or(T::default(), |page| {
            self.pages[*page as usize].1[(number % PAGE) as usize]
        })
    }

    pub(super) fn get_mut(&mut self, number: u64) -> &mut T {
        let page = number / PAGE;
        if page != self.last.0 {
            let pages = &mut self.pages;
            let index = *self.numbers.entry(page).or_insert_with(|| {
                pages.push((page, vec![T::default(); PAGE as usize].into()));
                (pages.len() - 1) as u32
            });
            self.last = (page, index);
        }
        &mut self.pages[self.last.1 as usize].1[(number % PAGE) as usize]
    }

    /// Every number of a page that was touched, with its value; sorted.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (u64, T)> {
        let mut pages: Vec<&(u64, Box<[T]>)> = self.pages.iter().collect();
        pages.sort_by_key(|(page, _)| *page);
        let values = |(page, values): &'_ (u64, Box<[T]>)| {
            let first = page * PAGE;
            let numbered = values.iter().enumerate();
            let numbered = numbered.map(|(at, value)| (first + at as u64, *value));
            numbered.collect::<Vec<(u64, T)>>()
        };
        pages.into_iter().flat_map(values)
    }

    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * (PAGE as usize * size_of::<T>() + 24) + self.numbers.capacity() * 17
    }
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            pages: Vec::new(),
            // A page that no number has.
            last: (u64::MAX, 0),
        }
    }
}

const PAGE: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_numbers_near_and_far() {
        let mut pages = Pages::<u8>::default();
        assert_eq!((pages.get(0), pages.get(u64::MAX)), (0, 0));
        for number in [5_000, 0, u64::MAX, 1_023, 1_024] {
            *pages.get_mut(number) += 1;
        }
        *pages.get_mut(0) += 1;
        let set: Vec<(u64, u8)> = pages.sorted().filter(|(_, value)| *value > 0).collect();
        assert_eq!(
            set,
            [(0, 2), (1_023, 1), (1_024, 1), (5_000, 1), (u64::MAX, 1)]
        );
        assert_eq!(
            (pages.get(5_000), pages.get(5_001), pages.get(9_999)),
            (1, 0, 0)
        );
        assert_eq!(pages.count(), 4);
    }
}

use std::alloc::Layout;

use super::*;

/// A memory inside of a vector, which starts with `start` pages of its own, less 100 bytes of "data".
struct Pages {
    words: Vec<u128>,
    used: usize,
    num_growths: usize,
}

impl Pages {
    fn new(start: usize, max: usize) -> Self {
        // One page more, so that the first can be aligned.
        Self {
            words: vec![0; (max + 1) * PAGE / size_of::<u128>()],
            used: start,
            num_growths: 0,
        }
    }

    fn base(&mut self) -> usize {
        self.words
            .as_mut_ptr()
            .expose_provenance()
            .next_multiple_of(PAGE)
    }
}

impl Memory for Pages {
    fn initial(&mut self) -> (usize, usize) {
        (self.base() + 100, self.base() + self.used * PAGE)
    }

    fn grow(&mut self, pages: usize) -> Option<usize> {
        let max = self.words.len() * size_of::<u128>() / PAGE - 1;
        if self.used + pages > max {
            return None;
        }
        let before = self.base() + self.used * PAGE;
        self.used += pages;
        self.num_growths += 1;
        Some(before)
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn classes_hold_their_layouts_and_waste_at_most_a_quarter() {
    let mut before = 0;
    for size in 1..70_000 {
        let Some(Class::Small {
            index,
            size: class_size,
        }) = Class::of(layout(size, 8))
        else {
            panic!("{size} is small");
        };
        assert!(class_size >= size, "{size} got {class_size}");
        assert!(
            class_size <= (size + size / 4).max(size + GRAIN),
            "{size} got {class_size}"
        );
        assert_eq!(class_size % GRAIN, 0);
        assert!(index == before || index == before + 1, "{size}: {index}");
        before = index;
    }
}

#[test]
fn classes_of_one_index_have_one_size() {
    let mut sizes = std::collections::HashMap::new();
    for size in (1..1 << 22).step_by(7) {
        let Some(Class::Small {
            index,
            size: class_size,
        }) = Class::of(layout(size, 1))
        else {
            panic!("{size} is small");
        };
        assert_eq!(*sizes.entry(index).or_insert(class_size), class_size);
    }
}

#[test]
fn small_work_never_grows_the_memory() {
    let mut heap = Heap::new(Pages::new(1, 4));
    for _ in 0..10_000 {
        let layouts = [layout(17, 1), layout(128, 1), layout(4096, 8)];
        let blocks = layouts.map(|layout| (heap.allocate(layout), layout));
        for (block, layout) in blocks {
            assert!(!block.is_null());
            // SAFETY: The block came from this heap with this layout.
            unsafe { heap.release(block, layout) };
        }
    }
    assert_eq!(heap.memory.num_growths, 0);
}

#[test]
fn exhaustion_answers_null_and_spares_what_is_there() {
    let mut heap = Heap::new(Pages::new(1, 2));
    let block = heap.allocate(layout(1000, 8));
    assert!(!block.is_null());
    assert!(heap.allocate(layout(3 * PAGE, 8)).is_null());
    assert!(
        heap.allocate(layout(isize::MAX as usize - 15, 16))
            .is_null()
    );
    assert!(!heap.allocate(layout(PAGE, 8)).is_null());
}

#[test]
fn the_newest_block_is_stretched_where_it_lies() {
    let mut heap = Heap::new(Pages::new(1, 2));
    let block = heap.allocate(layout(40, 1));
    assert!(heap.fits_in_place(block, layout(40, 1), layout(45, 1)));
    assert!(heap.fits_in_place(block, layout(45, 1), layout(1000, 1)));
    let after = heap.allocate(layout(16, 1));
    assert!(after.addr() >= block.addr() + 1000);
    assert!(!heap.fits_in_place(block, layout(1000, 1), layout(2000, 1)));
}

/// A long random life, with every block filled and checked: none overlaps another, all are aligned.
#[test]
fn blocks_never_overlap() {
    let mut heap = Heap::new(Pages::new(1, 64));
    let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap() % below
    };
    for round in 0..20_000_usize {
        let is_full = live.len() > 200;
        if !live.is_empty() && (is_full || random(3) == 0) {
            let chosen = random(live.len());
            let (block, layout, fill) = live.swap_remove(chosen);
            // SAFETY: The block is live, so its bytes are readable.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            assert!(bytes.iter().all(|&byte| byte == fill), "{layout:?}");
            // SAFETY: The block came from this heap with this layout.
            unsafe { heap.release(block, layout) };
            continue;
        }
        let most = [30, 300, 5000][random(3)];
        let size = 1 + random(most);
        let align = [1, 4, 8, 16, 64, 256][random(6)];
        let layout = layout(size, align);
        let block = heap.allocate(layout);
        assert!(!block.is_null(), "memory ran out at round {round}");
        assert_eq!(block.addr() % layout.align(), 0);
        let fill = u8::try_from(round % 251).unwrap();
        // SAFETY: The block is at least so long.
        unsafe { block.write_bytes(fill, layout.size()) };
        live.push((block, layout, fill));
    }
}

//! What the guest parses. The bench parses the same natively, to tell the machine from the sandbox.

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Order<'m> {
    #[serde(rename = "type")]
    kind: &'m str,
    items: Vec<Item<'m>>,
}

#[derive(Deserialize)]
struct Item<'m> {
    name: &'m str,
    price: f64,
    count: u32,
}

impl Order<'_> {
    /// Looks at every field.
    pub(crate) fn is_whole(&self) -> bool {
        let mut items = self.items.iter();
        self.kind != "probe"
            && items.all(|item| item.count > 0 && item.price >= 0.0 && !item.name.is_empty())
    }
}

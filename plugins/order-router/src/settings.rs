//! What the operator sets: what is traded, and who hears of which order.

use serde::Deserialize;
use tidegate_sdk::{
    Refusal,
    config::{BadSetting, Pattern, Template},
};

use crate::{
    decimal::Decimal,
    order::{Order, invalid},
};

/// Each gets a copy of the order, and what a plugin hands to the node in one call is bounded.
const MAX_CHANNELS: usize = 32;

/// The settings, checked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawSettings")]
pub(crate) struct Settings {
    /// The first that matches holds; everything is traded if there are none.
    instruments: Vec<Instrument>,
    /// Every one that matches holds.
    rules: Vec<Rule>,
    pub(crate) deduplicate: bool,
}

/// What orders for some instruments must keep to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instrument {
    pattern: Pattern,
    /// Prices are whole numbers of it.
    tick: Option<Decimal>,
    /// Quantities are whole numbers of it.
    lot: Option<Decimal>,
    min_quantity: Option<Decimal>,
    max_quantity: Option<Decimal>,
    min_notional: Option<Decimal>,
    max_notional: Option<Decimal>,
}

/// Who hears of some orders.
#[derive(Debug)]
struct Rule {
    instrument: Pattern,
    quantity: Bounds,
    notional: Bounds,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    /// They go to these channels.
    Channels(Vec<Template>),
    /// They are refused for this reason.
    Refused(String),
}

/// From … to, both included.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    min: Option<Decimal>,
    max: Option<Decimal>,
}

impl Settings {
    /// Checks an order against what is traded.
    pub(crate) fn check(&self, order: &Order<'_>) -> Result<(), Refusal> {
        let is_of = |one: &&Instrument| one.pattern.matches(&order.instrument);
        match self.instruments.iter().find(is_of) {
            Some(instrument) => instrument.check(order),
            None if self.instruments.is_empty() => Ok(()),
            None => Err(invalid(format!(
                "`{}` is not traded here",
                order.instrument
            ))),
        }
    }

    /// The channels that hear of an order, each once, in the order of the rules.
    pub(crate) fn channels(&self, order: &Order<'_>) -> Result<Vec<String>, Refusal> {
        let mut channels = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.is_for(order)) {
            match &rule.fate {
                Fate::Refused(reason) => return Err(invalid(reason.as_str())),
                Fate::Channels(templates) => {
                    for template in templates {
                        let channel = template.fill(&[("instrument", &order.instrument)]);
                        if !channels.contains(&channel) {
                            channels.push(channel);
                        }
                    }
                }
            }
        }
        if channels.is_empty() {
            return Err(invalid(format!(
                "no rule takes {} of `{}`",
                order.quantity, order.instrument
            )));
        }
        Ok(channels)
    }
}

impl Instrument {
    fn check(&self, order: &Order<'_>) -> Result<(), Refusal> {
        let Self {
            pattern: _,
            tick,
            lot,
            min_quantity,
            max_quantity,
            min_notional,
            max_notional,
        } = self;
        if let Some(lot) = lot
            && !order.quantity.is_multiple_of(*lot)
        {
            return Err(invalid(format!(
                "`quantity` {} is not a multiple of {lot}",
                order.quantity
            )));
        }
        if let (Some(tick), Some(price)) = (tick, order.price)
            && !price.is_multiple_of(*tick)
        {
            return Err(invalid(format!(
                "`price` {price} is not a multiple of {tick}"
            )));
        }
        within("`quantity`", order.quantity, *min_quantity, *max_quantity)?;
        // Nobody knows what a market order is worth; the rules decide on it.
        if let Some(notional) = order.notional() {
            within("the order's value", notional, *min_notional, *max_notional)?;
        }
        Ok(())
    }
}

fn within(
    what: &str,
    number: Decimal,
    min: Option<Decimal>,
    max: Option<Decimal>,
) -> Result<(), Refusal> {
    match (min, max) {
        (Some(min), _) if number < min => {
            Err(invalid(format!("{what} {number} is less than {min}")))
        }
        (_, Some(max)) if number > max => {
            Err(invalid(format!("{what} {number} is more than {max}")))
        }
        (_, _) => Ok(()),
    }
}

impl Rule {
    fn is_for(&self, order: &Order<'_>) -> bool {
        self.instrument.matches(&order.instrument)
            && self.quantity.hold(Some(order.quantity))
            && self.notional.hold(order.notional())
    }
}

impl Bounds {
    /// What nobody knows counts as larger than everything: it must not slip past the rules for large orders.
    fn hold(self, number: Option<Decimal>) -> bool {
        let Self { min, max } = self;
        match number {
            Some(number) => {
                min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max)
            }
            None => max.is_none(),
        }
    }

    fn check(self, name: &str) -> Result<Self, BadSetting> {
        match (self.min, self.max) {
            (Some(min), Some(max)) if min > max => Err(BadSetting::new(format!(
                "`min_{name}` {min} is more than `max_{name}` {max}"
            ))),
            (_, _) => Ok(self),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    #[serde(default)]
    instruments: Vec<Instrument>,
    rules: Vec<RawRule>,
    #[serde(default = "yes")]
    deduplicate: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    instrument: Option<Pattern>,
    min_quantity: Option<Decimal>,
    max_quantity: Option<Decimal>,
    min_notional: Option<Decimal>,
    max_notional: Option<Decimal>,
    channels: Option<Vec<Template>>,
    refuse: Option<String>,
}

impl TryFrom<RawSettings> for Settings {
    type Error = BadSetting;

    fn try_from(raw: RawSettings) -> Result<Self, BadSetting> {
        let RawSettings {
            instruments,
            rules,
            deduplicate,
        } = raw;
        for (nth, instrument) in instruments.iter().enumerate() {
            let place = format!("instruments[{nth}]");
            instrument.check_itself().map_err(|error| error.at(place))?;
        }
        let rules: Vec<Rule> = rules
            .into_iter()
            .enumerate()
            .map(|(nth, rule)| {
                rule.check()
                    .map_err(|error| error.at(format_args!("rules[{nth}]")))
            })
            .collect::<Result<_, _>>()?;
        let channels = rules.iter().map(|rule| match &rule.fate {
            Fate::Channels(channels) => channels.len(),
            Fate::Refused(_) => 0,
        });
        match channels.sum() {
            0 => Err(
                BadSetting::new("no rule names a channel, so no order could go anywhere")
                    .at("rules"),
            ),
            1..=MAX_CHANNELS => Ok(Self {
                instruments,
                rules,
                deduplicate,
            }),
            many => Err(BadSetting::new(format!(
                "they name {many} channels; an order goes to at most {MAX_CHANNELS}"
            ))
            .at("rules")),
        }
    }
}

impl Instrument {
    fn check_itself(&self) -> Result<(), BadSetting> {
        for (name, step) in [("tick", self.tick), ("lot", self.lot)] {
            if step.is_some_and(Decimal::is_zero) {
                return Err(BadSetting::new("zero is no step").at(name));
            }
        }
        let quantity = Bounds {
            min: self.min_quantity,
            max: self.max_quantity,
        };
        let notional = Bounds {
            min: self.min_notional,
            max: self.max_notional,
        };
        quantity.check("quantity")?;
        notional.check("notional")?;
        Ok(())
    }
}

impl RawRule {
    fn check(self) -> Result<Rule, BadSetting> {
        let Self {
            instrument,
            min_quantity,
            max_quantity,
            min_notional,
            max_notional,
            channels,
            refuse,
        } = self;
        let quantity = Bounds {
            min: min_quantity,
            max: max_quantity,
        };
        let notional = Bounds {
            min: min_notional,
            max: max_notional,
        };
        let fate = match (channels, refuse) {
            (Some(channels), None) if !channels.is_empty() => {
                for channel in &channels {
                    channel
                        .allow(&["instrument"])
                        .map_err(|error| error.at("channels"))?;
                }
                Fate::Channels(channels)
            }
            (None, Some(reason)) => Fate::Refused(reason),
            (_, _) => {
                return Err(BadSetting::new(
                    "it has either `channels`, one at least, or `refuse` with a reason",
                ));
            }
        };
        Ok(Rule {
            instrument: instrument.unwrap_or_else(Pattern::any),
            quantity: quantity.check("quantity")?,
            notional: notional.check("notional")?,
            fate,
        })
    }
}

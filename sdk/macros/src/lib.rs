//! The `plugin!` macro of `tidegate-sdk`.
//!
//! It parses, checks and emits one call per hook; everything that happens at run time is ordinary code of the
//! SDK. Use it through `tidegate_sdk::plugin!`, where its documentation is.
//!
//! Invariant: generated paths start with `::tidegate_sdk::__private`, and nothing generated has a name that a
//! user's item could meet.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Ident, Token,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

/// Every hook: what is written in the macro, and the trait that stands behind it.
const HOOKS: [(&str, &str); 7] = [
    ("authentication", "Authentication"),
    ("authorization", "Authorization"),
    ("filtering", "Filtering"),
    ("routing", "Routing"),
    ("rpc", "Rpc"),
    ("events", "Events"),
    ("schedule", "Schedule"),
];

/// What may stand among the hooks: settings are tried when they are bound.
const SETTINGS: (&str, &str) = ("settings", "Configured");

/// Exports hooks of a plugin; see `tidegate_sdk::plugin!`.
#[proc_macro]
pub fn plugin(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    match syn::parse::<Plugin>(input) {
        Ok(plugin) => plugin.expand().into(),
        Err(error) => error.into_compile_error().into(),
    }
}

/// `MyPlugin: filtering, routing`, checked.
struct Plugin {
    implementor: Ident,
    /// At least one, all known, none twice.
    hooks: Vec<Ident>,
}

impl Parse for Plugin {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.is_empty() {
            return Err(input.error(format!(
                "name the type and its hooks: `plugin!(MyPlugin: filtering)`; {}",
                known_hooks()
            )));
        }
        let implementor: Ident = input.parse()?;
        if input.peek(Token![::]) || input.peek(Token![<]) {
            return Err(input.error(format!(
                "a plain name is needed here; bring the type into scope with `use`, or name it with \
                 `type {implementor} = …;`"
            )));
        }
        if input.is_empty() {
            return Err(syn::Error::new(
                implementor.span(),
                format!(
                    "name the hooks after the type: `plugin!({implementor}: filtering)`; {}",
                    known_hooks()
                ),
            ));
        }
        input.parse::<Token![:]>()?;
        let listed = Punctuated::<Ident, Token![,]>::parse_terminated(input)?;
        if listed.is_empty() {
            return Err(input.error(format!("at least one hook is needed; {}", known_hooks())));
        }

        let mut hooks: Vec<Ident> = Vec::new();
        let mut problems: Option<syn::Error> = None;
        for hook in listed {
            match check(&hook, &hooks) {
                Ok(()) => hooks.push(hook),
                // All problems are shown at once, each at its own token.
                Err(error) => match &mut problems {
                    Some(all) => all.combine(error),
                    None => problems = Some(error),
                },
            }
        }
        match problems {
            Some(error) => Err(error),
            None => Ok(Self { implementor, hooks }),
        }
    }
}

impl Plugin {
    fn expand(&self) -> TokenStream {
        let implementor = &self.implementor;
        let hooks = self.hooks.iter().map(|hook| {
            let export = format_ident!("export_{}", hook, span = proc_macro2::Span::call_site());
            let implements = format_ident!("implements_{}", hook);
            // The check carries the type's span, so that a missing `impl` is reported there, on every target.
            let check = quote_spanned! { implementor.span() =>
                const _: fn() = ::tidegate_sdk::__private::#implements::<#implementor>;
            };
            quote! {
                #check
                #[cfg(target_arch = "wasm32")]
                ::tidegate_sdk::__private::#export!(#implementor);
            }
        });
        quote!(#(#hooks)*)
    }
}

/// Is `hook` a hook that was not named `before`?
fn check(hook: &Ident, before: &[Ident]) -> syn::Result<()> {
    if before.contains(hook) {
        return Err(syn::Error::new(
            hook.span(),
            format!("`{hook}` is listed twice; name every hook once"),
        ));
    }
    let known = || HOOKS.iter().chain([&SETTINGS]);
    if known().any(|(name, _)| hook == name) {
        return Ok(());
    }
    // Writing the trait's name instead of the hook's is the likeliest slip.
    if let Some((name, _)) = known().find(|(name, implements)| {
        hook == implements || hook.to_string().eq_ignore_ascii_case(name)
    }) {
        return Err(syn::Error::new(
            hook.span(),
            format!("hooks are written in lower case: `{name}`"),
        ));
    }
    Err(syn::Error::new(
        hook.span(),
        format!("there is no hook `{hook}`; {}", known_hooks()),
    ))
}

fn known_hooks() -> String {
    let names: Vec<&str> = HOOKS.iter().map(|(name, _)| *name).collect();
    format!("the hooks are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_a_check_and_a_call_per_hook() {
        let plugin: Plugin = syn::parse_str("Wall: filtering, routing,").unwrap();
        let expected = "
            const _: fn() = ::tidegate_sdk::__private::implements_filtering::<Wall>;
            #[cfg(target_arch = \"wasm32\")]
            ::tidegate_sdk::__private::export_filtering!(Wall);
            const _: fn() = ::tidegate_sdk::__private::implements_routing::<Wall>;
            #[cfg(target_arch = \"wasm32\")]
            ::tidegate_sdk::__private::export_routing!(Wall);
        ";
        let without_blanks = |text: &str| text.replace(char::is_whitespace, "");
        assert_eq!(
            without_blanks(&plugin.expand().to_string()),
            without_blanks(expected)
        );
    }
}

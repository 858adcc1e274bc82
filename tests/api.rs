//! The public interface is what `tests/api.txt` lists, so that a change of it is seen in review.
//!
//! The lint `unreachable_pub` makes sure that what is `pub` can be reached: the listing is all that is. It is read from
//! the source, whatever features are on; what macros make is listed by what they are given. To renew it:
//! `MQTT_AGENT_WRITE_API=1 cargo test --test api`.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Fields, File, FnArg, ImplItem, Item, ItemImpl, Pat, TraitItem, Visibility};

#[test]
fn the_public_interface_is_the_one_that_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = read(root, "src/lib.rs");
    let names = Names::of(files.iter().flat_map(|(_, file)| &file.items));
    let mut listing = String::new();
    for (path, file) in files {
        let names = names.within(&file.items);
        let items: Vec<_> = file.items.into_iter().filter_map(|item| interface(item, &names)).collect();
        if !items.is_empty() {
            let text = prettyplease::unparse(&File { shebang: None, attrs: Vec::new(), items });
            listing.push_str(&format!("// {path}\n{text}\n"));
        }
    }
    let page = root.join("tests/api.txt");
    if std::env::var_os("MQTT_AGENT_WRITE_API").is_some() {
        fs::write(&page, &listing).unwrap();
    }
    let listed = fs::read_to_string(&page).unwrap();
    let (now, before): (HashSet<_>, HashSet<_>) = (listing.lines().collect(), listed.lines().collect());
    let changes = listing.lines().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    let changes = changes.chain(listed.lines().filter(|line| !now.contains(line)).map(|line| format!("- {line}")));
    let changes: Vec<_> = changes.collect();
    assert!(
        listing == listed,
        "the public interface has changed:\n{}\nif that is meant: MQTT_AGENT_WRITE_API=1 cargo test --test api",
        changes.join("\n")
    );
}

/// The file, and those of its modules.
fn read(root: &Path, path: &str) -> Vec<(String, File)> {
    let file = syn::parse_file(&fs::read_to_string(root.join(path)).unwrap()).unwrap();
    let modules: Vec<_> = file
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() && !is_for_tests(&module.attrs) => Some(&module.ident),
            _ => None,
        })
        .collect();
    let inner: Vec<_> = modules.into_iter().flat_map(|name| read(root, &find(root, path, &name.to_string()))).collect();
    [(path.to_owned(), file)].into_iter().chain(inner).collect()
}

fn find(root: &Path, parent: &str, name: &str) -> String {
    let parent = Path::new(parent);
    let stem = parent.file_stem().unwrap();
    let folder = match stem.to_str() {
        Some("lib" | "mod") => parent.parent().unwrap().to_owned(),
        _ => parent.with_extension(""),
    };
    let candidates: [PathBuf; 2] = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    let found = candidates.iter().find(|path| root.join(path).is_file()).unwrap();
    found.to_str().unwrap().to_owned()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
        let mut words = text.split(|letter: char| !letter.is_alphanumeric());
        attribute.path().is_ident("cfg") && words.any(|word| ["test", "fuzzing", "doctest"].contains(&word))
    })
}

/// Of the types and traits made here.
#[derive(Default)]
struct Names {
    public: HashSet<String>,
    private: HashSet<String>,
}

impl Names {
    fn of<'a>(items: impl Iterator<Item = &'a Item>) -> Self {
        let mut names = Self::default();
        for item in items {
            let (visibility, name) = match item {
                Item::Struct(item) => (&item.vis, &item.ident),
                Item::Enum(item) => (&item.vis, &item.ident),
                Item::Trait(item) => (&item.vis, &item.ident),
                _ => continue,
            };
            let held = if is_public(visibility) { &mut names.public } else { &mut names.private };
            held.insert(name.to_string());
        }
        names
    }

    /// The same where these are made: they come first, since a private type may have the name of a public one.
    fn within(&self, items: &[Item]) -> Self {
        let local = Self::of(items.iter());
        let private = &self.private - &self.public;
        Self {
            public: &(&self.public - &local.private) | &local.public,
            private: &(&private - &local.public) | &local.private,
        }
    }

    /// Whether others can use the implementation: a public type or trait has a part in it, and no private one.
    fn allow(&self, item: &ItemImpl) -> bool {
        let of_trait = item.trait_.as_ref().map(|(_, path, _)| path.to_token_stream()).unwrap_or_default();
        let words = words(of_trait).chain(words(item.self_ty.to_token_stream())).collect::<HashSet<_>>();
        !words.is_disjoint(&self.public) && words.is_disjoint(&self.private)
    }
}

fn words(tokens: TokenStream) -> Box<dyn Iterator<Item = String>> {
    Box::new(tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => words(group.stream()),
        TokenTree::Ident(name) => Box::new(std::iter::once(name.to_string())),
        _ => Box::new(std::iter::empty()),
    }))
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// What of an item is public: without bodies, private fields and documentation.
fn interface(mut item: Item, names: &Names) -> Option<Item> {
    let attributes = attributes(&mut item)?;
    if is_for_tests(attributes) {
        return None;
    }
    attributes.retain(is_listed);
    let is_seen = match &mut item {
        Item::Const(item) => is_public(&item.vis),
        Item::Enum(item) => {
            item.variants.iter_mut().for_each(|variant| {
                variant.attrs.retain(|attribute| attribute.path().is_ident("non_exhaustive"));
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            });
            is_public(&item.vis)
        }
        Item::Fn(item) => {
            item.block.stmts.clear();
            is_public(&item.vis)
        }
        Item::Impl(item) => {
            let is_of_trait = item.trait_.is_some();
            item.items.retain_mut(|item| if is_of_trait { keep_type(item) } else { keep_public(item) });
            names.allow(item) && (is_of_trait || !item.items.is_empty())
        }
        // What they are given makes public items.
        Item::Macro(item) => {
            item.mac.tokens = without_docs(std::mem::take(&mut item.mac.tokens));
            let is_private = item.mac.tokens.to_string().starts_with("pub (");
            !is_private && !["macro_rules", "thread_local"].iter().any(|name| item.mac.path.is_ident(name))
        }
        Item::Mod(item) => is_public(&item.vis),
        Item::Struct(item) => {
            drop_private(&mut item.fields);
            is_public(&item.vis)
        }
        Item::Trait(item) => {
            for item in &mut item.items {
                if let TraitItem::Fn(method) = item {
                    method.attrs.retain(is_listed);
                    method.default.iter_mut().for_each(|body| body.stmts.clear());
                }
            }
            is_public(&item.vis)
        }
        Item::Type(item) => is_public(&item.vis),
        Item::Use(item) => is_public(&item.vis),
        _ => false,
    };
    is_seen.then_some(item)
}

fn attributes(item: &mut Item) -> Option<&mut Vec<Attribute>> {
    Some(match item {
        Item::Const(item) => &mut item.attrs,
        Item::Enum(item) => &mut item.attrs,
        Item::Fn(item) => &mut item.attrs,
        Item::Impl(item) => &mut item.attrs,
        Item::Macro(item) => &mut item.attrs,
        Item::Mod(item) => &mut item.attrs,
        Item::Struct(item) => &mut item.attrs,
        Item::Trait(item) => &mut item.attrs,
        Item::Type(item) => &mut item.attrs,
        Item::Use(item) => &mut item.attrs,
        _ => return None,
    })
}

/// Whether an attribute is part of the interface.
fn is_listed(attribute: &Attribute) -> bool {
    ["cfg", "derive", "must_use", "non_exhaustive"].iter().any(|name| attribute.path().is_ident(name))
}

fn keep_public(item: &mut ImplItem) -> bool {
    match item {
        ImplItem::Fn(method) => {
            method.block.stmts.clear();
            method.attrs.retain(is_listed);
            method.sig.inputs.iter_mut().for_each(without_mut);
            is_public(&method.vis)
        }
        ImplItem::Const(constant) => {
            constant.attrs.clear();
            is_public(&constant.vis)
        }
        _ => false,
    }
}

/// What a trait asks for is known; what the implementation chose is not.
fn keep_type(item: &mut ImplItem) -> bool {
    match item {
        ImplItem::Type(chosen) => {
            chosen.attrs.retain(is_listed);
            true
        }
        _ => false,
    }
}

/// Whether a parameter is changed inside is nobody's business.
fn without_mut(input: &mut FnArg) {
    match input {
        FnArg::Receiver(receiver) if receiver.reference.is_none() => receiver.mutability = None,
        FnArg::Receiver(_) => {}
        FnArg::Typed(argument) => {
            if let Pat::Ident(name) = &mut *argument.pat {
                name.mutability = None;
            }
        }
    }
}

fn drop_private(fields: &mut Fields) {
    fields.iter_mut().for_each(|field| field.attrs.clear());
    let is_shown = |field: &syn::Field| is_public(&field.vis);
    match fields {
        Fields::Named(named) => {
            named.named = std::mem::take(&mut named.named).into_iter().filter(is_shown).collect();
        }
        Fields::Unnamed(unnamed) => {
            unnamed.unnamed = std::mem::take(&mut unnamed.unnamed).into_iter().filter(is_shown).collect();
        }
        Fields::Unit => {}
    }
}

/// A documentation comment is an attribute `#[doc = "…"]` to a macro.
fn without_docs(tokens: TokenStream) -> TokenStream {
    let is_doc = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.stream().into_iter().next().is_some_and(|first| first.to_string() == "doc"),
        _ => false,
    };
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in tokens {
        let is_sharp = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == '#');
        if is_doc(&token) && kept.last().is_some_and(is_sharp) {
            kept.pop();
            continue;
        }
        kept.push(match token {
            TokenTree::Group(group) => {
                TokenTree::Group(proc_macro2::Group::new(group.delimiter(), without_docs(group.stream())))
            }
            token => token,
        });
    }
    kept.into_iter().collect()
}

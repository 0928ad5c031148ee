//! The modules of a crate as its sources declare them, without what only tests see.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, Item, ItemUse, Meta, UseTree};

/// One module: a file, or a block `mod name { … }` in one.
pub(crate) struct Module {
    /// Names from the crate's root, which has none.
    pub(crate) path: Vec<String>,
    pub(crate) file: PathBuf,
    pub(crate) parent: Option<usize>,
    /// The module of the file: the module itself, unless it is a block.
    pub(crate) of_file: usize,
    pub(crate) items: Vec<Item>,
    pub(crate) names: BTreeMap<String, Vec<Meaning>>,
    pub(crate) globs: Vec<Vec<String>>,
}

/// What a name of a module stands for.
#[derive(Clone)]
pub(crate) enum Meaning {
    Module(usize),
    Item,
    Import(Vec<String>),
}

/// The modules below one root file, which is the first of them.
pub(crate) struct Tree {
    pub(crate) modules: Vec<Module>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self { modules: Vec::new() };
        let folder = root.parent().expect("a file stands in a folder").to_path_buf();
        tree.add_file(root.to_path_buf(), folder, Vec::new(), None);
        tree
    }

    /// `folder` is where the files of the module's children stand.
    fn add_file(
        &mut self,
        file: PathBuf,
        folder: PathBuf,
        path: Vec<String>,
        parent: Option<usize>,
    ) -> usize {
        let parsed = parse(&file);
        self.add(file, folder, path, parent, None, parsed.items)
    }

    fn add(
        &mut self,
        file: PathBuf,
        folder: PathBuf,
        path: Vec<String>,
        parent: Option<usize>,
        of_file: Option<usize>,
        items: Vec<Item>,
    ) -> usize {
        let index = self.modules.len();
        let of_file = of_file.unwrap_or(index);
        let (names, globs) = (BTreeMap::new(), Vec::new());
        let mut module = Module { path, file, parent, of_file, items: Vec::new(), names, globs };
        for item in items.iter().filter(|item| !only_for_tests(attributes(item))) {
            module.declare(item);
        }
        self.modules.push(module);
        for item in &items {
            if let Item::Mod(child) = item
                && !only_for_tests(&child.attrs)
            {
                self.add_child(index, &folder, child);
            }
        }
        self.modules[index].items = items;
        index
    }

    fn add_child(&mut self, parent: usize, folder: &Path, child: &syn::ItemMod) {
        let name = child.ident.to_string();
        let (file, of_file) = (self.modules[parent].file.clone(), self.modules[parent].of_file);
        let path = [self.modules[parent].path.as_slice(), std::slice::from_ref(&name)].concat();
        let below = folder.join(&name);
        let index = match (&child.content, path_attribute(&child.attrs)) {
            (Some((_, items)), _) => self.add(file, below, path, Some(parent), Some(of_file), items.clone()),
            (None, Some(given)) => {
                let file = file.parent().expect("a file stands in a folder").join(given);
                let folder = file.parent().expect("a file stands in a folder").to_path_buf();
                self.add_file(file, folder, path, Some(parent))
            }
            (None, None) => {
                let beside = folder.join(format!("{name}.rs"));
                let file = if beside.is_file() { beside } else { below.join("mod.rs") };
                self.add_file(file, below, path, Some(parent))
            }
        };
        self.modules[parent].names.entry(name).or_default().push(Meaning::Module(index));
    }
}

impl Module {
    fn declare(&mut self, item: &Item) {
        if let Some(name) = name_of(item) {
            self.names.entry(name).or_default().push(Meaning::Item);
        }
        Imports(self).visit_item(item);
    }
}

/// Collects what `use` declares, also inside of functions: a name of theirs is taken as one of the module.
struct Imports<'a>(&'a mut Module);

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in imports(&item.tree) {
            match import.name {
                Some(name) => {
                    self.0.names.entry(name).or_default().push(Meaning::Import(import.path));
                }
                None => self.0.globs.push(import.path),
            }
        }
    }

    fn visit_item_mod(&mut self, _: &'ast syn::ItemMod) {
        // Has names of its own.
    }
}

/// One leaf of a `use`: its whole path, and the name that it gives; none for `*`.
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    pub(crate) name: Option<String>,
    pub(crate) line: usize,
}

pub(crate) fn imports(tree: &UseTree) -> Vec<Import> {
    let mut found = Vec::new();
    leaves(tree, &mut Vec::new(), &mut found);
    found
}

fn leaves(tree: &UseTree, before: &mut Vec<String>, found: &mut Vec<Import>) {
    let mut leaf = |ident: &syn::Ident, name: &syn::Ident| {
        let mut path = before.clone();
        if ident != "self" || path.is_empty() {
            path.push(ident.to_string());
        }
        let name = if name == "self" { path.last().cloned() } else { Some(name.to_string()) };
        found.push(Import { path, name, line: ident.span().start().line });
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            leaves(&path.tree, before, found);
            before.pop();
        }
        UseTree::Name(name) => leaf(&name.ident, &name.ident),
        UseTree::Rename(rename) => leaf(&rename.ident, &rename.rename),
        UseTree::Glob(glob) => {
            let line = glob.star_token.spans[0].start().line;
            found.push(Import { path: before.clone(), name: None, line });
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, found)),
    }
}

pub(crate) fn parse(file: &Path) -> syn::File {
    syn::parse_file(&crate::read(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Whether these attributes leave something out of every build but those for tests and for fuzzing.
pub(crate) fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|condition| needs_tests(&condition)))
    })
}

fn needs_tests(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test") || path.is_ident("loom"),
        Meta::NameValue(pair) => {
            let fuzzing =
                |value: &syn::Lit| matches!(value, syn::Lit::Str(text) if text.value() == "fuzzing");
            pair.path.is_ident("feature")
                && matches!(&pair.value, syn::Expr::Lit(value) if fuzzing(&value.lit))
        }
        Meta::List(list) => {
            let separated = syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated;
            let Ok(inner) = list.parse_args_with(separated) else { return false };
            match list.path.get_ident().map(ToString::to_string).as_deref() {
                Some("all") => inner.iter().any(needs_tests),
                Some("any") => !inner.is_empty() && inner.iter().all(needs_tests),
                _ => false,
            }
        }
    }
}

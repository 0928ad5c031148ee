//! Which module uses which, as `use` and paths tell it. Calls of methods name no module and are not seen.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemUse};

use crate::modules::{Meaning, Tree, attributes, imports, only_for_tests};

/// One module uses another at a line of its file.
pub(crate) struct Use {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// Where a path ends.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Module(usize),
    /// An item that stands in this module.
    Item(usize),
}

/// What a path may end in: `use` takes whatever has the name, and only a module has something below it that is looked for.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Any,
    Module,
    Item,
}

/// Imports lead to imports; longer chains than this are circles of globs.
const FUEL: usize = 16;

/// Every use of one module by another below the same root.
pub(crate) fn uses(tree: &Tree) -> Vec<Use> {
    let mut found = Vec::new();
    for (index, module) in tree.modules.iter().enumerate() {
        let mut paths = Paths { tree, from: index, found: &mut found };
        module.items.iter().for_each(|item| paths.visit_item(item));
    }
    found
}

impl Tree {
    /// The places that `segments`, written in module `from`, can mean. Modules that the path names on its way are put into `passed`.
    fn resolve(
        &self,
        from: usize,
        segments: &[String],
        wanted: Wanted,
        passed: &mut Vec<usize>,
        fuel: usize,
    ) -> Vec<Place> {
        let Some(fuel) = fuel.checked_sub(1) else { return Vec::new() };
        let mut places = vec![];
        let mut here = None;
        for (at, segment) in segments.iter().enumerate() {
            let last = at + 1 == segments.len();
            let below = if last { wanted } else { Wanted::Any };
            places = match (segment.as_str(), here) {
                ("crate", None) => vec![Place::Module(0)],
                ("self", None) => vec![Place::Module(from)],
                ("super", None) => self.modules[from].parent.map(Place::Module).into_iter().collect(),
                ("super", Some(module)) if segments[at - 1] == "super" || segments[at - 1] == "self" => {
                    let above: &super::modules::Module = &self.modules[module];
                    above.parent.map(Place::Module).into_iter().collect()
                }
                (name, _) => self.look_up(here.unwrap_or(from), name, below, fuel),
            };
            if last {
                break;
            }
            // Below a type or a function nothing leads to another module.
            let module = places.iter().find_map(|place| match place {
                Place::Module(module) => Some(*module),
                Place::Item(_) => None,
            });
            match module {
                Some(module) => here = Some(module),
                None => return places,
            }
            passed.extend(here);
        }
        places
    }

    fn look_up(&self, module: usize, name: &str, wanted: Wanted, fuel: usize) -> Vec<Place> {
        let Some(fuel) = fuel.checked_sub(1) else { return Vec::new() };
        let mut places = Vec::new();
        for meaning in self.modules[module].names.get(name).into_iter().flatten() {
            match meaning {
                Meaning::Module(child) => places.push(Place::Module(*child)),
                Meaning::Item => places.push(Place::Item(module)),
                Meaning::Import(path) => places.extend(self.import(module, path, name, wanted, fuel)),
            }
        }
        if places.is_empty() {
            for glob in &self.modules[module].globs {
                let modules = self.resolve(module, glob, Wanted::Module, &mut Vec::new(), fuel);
                for place in modules {
                    if let Place::Module(below) = place
                        && below != module
                    {
                        places.extend(self.look_up(below, name, wanted, fuel));
                    }
                }
            }
        }
        places.retain(|place| match wanted {
            Wanted::Any => true,
            Wanted::Module => matches!(place, Place::Module(_)),
            Wanted::Item => matches!(place, Place::Item(_)),
        });
        places
    }

    /// An import of a name from a crate of the same name (`use log;`) leads nowhere.
    fn import(&self, module: usize, path: &[String], name: &str, wanted: Wanted, fuel: usize) -> Vec<Place> {
        if path.len() == 1 && path[0] == name {
            return Vec::new();
        }
        self.resolve(module, path, wanted, &mut Vec::new(), fuel)
    }
}

struct Paths<'a> {
    tree: &'a Tree,
    from: usize,
    found: &'a mut Vec<Use>,
}

impl Paths<'_> {
    fn note(&mut self, segments: &[String], wanted: Wanted, line: usize) {
        let mut passed = Vec::new();
        let places = self.tree.resolve(self.from, segments, wanted, &mut passed, FUEL);
        let ends = places.iter().map(|place| match place {
            Place::Module(module) | Place::Item(module) => *module,
        });
        let path = segments.join("::");
        for to in passed.into_iter().chain(ends) {
            self.found.push(Use { from: self.from, to, line, path: path.clone() });
        }
    }

    /// Paths among the tokens of a macro's call.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let (mut colons, mut dot) = (0, false);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path, line);
                    }
                    if path.is_empty() {
                        line = ident.span().start().line;
                    }
                    if !dot {
                        path.push(ident.to_string());
                    }
                    (colons, dot) = (0, false);
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Punct(punct) => {
                    self.end_path(&mut path, line);
                    (colons, dot) = (0, punct.as_char() == '.');
                }
                TokenTree::Group(group) => {
                    self.end_path(&mut path, line);
                    self.note_tokens(group.stream());
                    (colons, dot) = (0, false);
                }
                TokenTree::Literal(_) => {
                    self.end_path(&mut path, line);
                    (colons, dot) = (0, false);
                }
            }
        }
        self.end_path(&mut path, line);
    }

    fn end_path(&mut self, path: &mut Vec<String>, line: usize) {
        if !path.is_empty() {
            self.note(path, Wanted::Item, line);
            path.clear();
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !only_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !only_for_tests(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !only_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_item_mod(&mut self, _: &'ast syn::ItemMod) {
        // Is a module of the tree itself.
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in imports(&item.tree) {
            let wanted = if import.name.is_some() { Wanted::Any } else { Wanted::Module };
            if import.path.len() > 1 || import.name.is_none() {
                self.note(&import.path, wanted, import.line);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        if path.leading_colon.is_none() {
            self.note(&segments, Wanted::Item, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(in path)` uses nothing.
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        // serde takes paths as text, and clap takes expressions.
        if let syn::Meta::List(list) = &attribute.meta {
            if attribute.path().is_ident("serde") {
                for token in list.tokens.clone() {
                    if let TokenTree::Literal(literal) = token
                        && let Ok(path) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                        && let Ok(path) = path.parse::<syn::Path>()
                    {
                        let segments: Vec<String> =
                            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                        self.note(&segments, Wanted::Any, literal.span().start().line);
                    }
                }
            } else if attribute.path().is_ident("arg") || attribute.path().is_ident("command") {
                self.note_tokens(list.tokens.clone());
            }
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.note_tokens(call.tokens.clone());
    }
}

//! Functions fit a screen.

use syn::visit::{self, Visit};
use syn::{Block, Signature};

use crate::modules::parse;
use crate::{members, rust_files, shown};

/// A function has fewer lines than this, from `fn` to its closing brace.
const LINES: usize = 70;

/// Functions that are longer: file and name. One that gets shorter has to leave this list.
const KNOWN: &[(&str, &str)] = &[];

#[derive(Default)]
struct Long(Vec<(String, usize)>);

impl Long {
    fn measure(&mut self, signature: &Signature, body: &Block) {
        let lines = body.brace_token.span.close().end().line - signature.fn_token.span.start().line + 1;
        if lines >= LINES {
            self.0.push((signature.ident.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for Long {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.measure(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn functions_fit_a_screen() {
    // Proves: no function of any crate, its tests among them, is longer than allowed, but for those of KNOWN.
    let mut wrong = Vec::new();
    let mut known = KNOWN.to_vec();
    for file in members().iter().flat_map(|member| rust_files(member)) {
        let mut long = Long::default();
        long.visit_file(&parse(&file));
        let file = shown(&file);
        for (name, lines) in long.0 {
            let before = known.len();
            known.retain(|known| *known != (file.as_str(), name.as_str()));
            if known.len() == before {
                wrong.push(format!("{file}: `{name}` has {lines} lines, and {} are allowed", LINES - 1));
            }
        }
    }
    wrong.extend(known.iter().map(|(file, name)| format!("{file}: `{name}` is short: correct KNOWN")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

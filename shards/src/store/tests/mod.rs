//! The store's tests: `semantics` is a table of what each command does, `model` compares the store
//! with a naive one over random commands, `replay` compares replicas, `limits` looks at edges.

mod semantics;

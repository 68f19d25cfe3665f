//! The problems that are shown, kept for as long as what they are made of stays the same: a view is published with every
//! event, and a cluster may have thousands of problems.

use std::sync::Arc;

use mesh::{Problem, Topology};

use crate::known::Known;

/// What the problems are made of, besides what is known.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The mesh.
    pub topology: Option<Arc<Topology>>,
    /// What was rendered for the host.
    pub rendered: Arc<[Problem]>,
    /// In what agents, clocks and networks differ.
    pub agreement: Arc<[Problem]>,
    /// What the machine itself has found. There are few.
    pub own: Vec<Problem>,
}

/// The problems as they were shown last.
#[derive(Debug, Default)]
pub struct Shown {
    revision: u64,
    sources: Sources,
    problems: Arc<[Problem]>,
}

impl Shown {
    /// The problems, by object and reason, one for each. As long as they are the same it is the same allocation.
    pub fn update(&mut self, known: &Known, sources: Sources) -> Arc<[Problem]> {
        let before = &self.sources;
        let same = self.revision == known.revision()
            && before.topology.as_ref().map(Arc::as_ptr) == sources.topology.as_ref().map(Arc::as_ptr)
            && Arc::ptr_eq(&before.rendered, &sources.rendered)
            && Arc::ptr_eq(&before.agreement, &sources.agreement)
            && before.own == sources.own;
        if !same {
            let mut problems = known.problems(sources.topology.as_deref());
            problems.extend(sources.rendered.iter().chain(&*sources.agreement).chain(&sources.own).cloned());
            let problems = problems.into_sorted();
            if *self.problems != *problems {
                self.problems = problems.into();
            }
            (self.revision, self.sources) = (known.revision(), sources);
        }
        self.problems.clone()
    }
}

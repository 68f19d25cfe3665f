//! Which cluster and which user the files of a kubeconfig choose, by the rules of kubectl: of entries with one name the
//! first file's counts, whole, and files that are missing are passed over unless one was named.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use super::kubeconfig::{Cluster, Document, Exec, User};

/// What a kubeconfig comes to.
pub(super) struct Chosen {
    pub cluster: Cluster,
    pub user: User,
    pub namespace: String,
}

/// The files of the user's own kubeconfig: those of `$KUBECONFIG`, else `~/.kube/config`.
pub(super) fn user_files() -> Vec<PathBuf> {
    match env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => {
            let mut seen = BTreeSet::new();
            let files = env::split_paths(&list).filter(|path| !path.as_os_str().is_empty());
            files.filter(|path| seen.insert(path.clone())).collect()
        }
        None => {
            let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            vec![home.join(".kube/config")]
        }
    }
}

/// What a file that was named says, with the address of another server if one is given.
///
/// # Errors
/// What is wrong with it and what to do.
pub(super) fn load_one(path: &Path, master: Option<&str>) -> Result<Chosen, String> {
    if let Err(error) = path.metadata() {
        return Err(format!(
            "reading {}: {error}; give a file that is there with --kubeconfig",
            path.display()
        ));
    }
    choose(vec![Document::read(path)?], master)
}

/// What these files say together. `None`: none of them is there.
///
/// # Errors
/// What is wrong with them and what to do.
pub(super) fn load_all(paths: &[PathBuf], master: Option<&str>) -> Result<Option<Chosen>, String> {
    let there = paths.iter().filter(|path| path.try_exists().unwrap_or(true));
    let documents = there
        .map(|path| Document::read(path).map_err(|why| format!("{}: {why}", path.display())))
        .collect::<Result<Vec<_>, _>>()?;
    if documents.is_empty() { Ok(None) } else { choose(documents, master).map(Some) }
}

fn choose(documents: Vec<Document>, master: Option<&str>) -> Result<Chosen, String> {
    let name = documents.iter().map(|document| &document.current_context).find(|name| !name.is_empty());
    let name = name.ok_or("it has no current-context; choose one with kubectl config use-context NAME")?;
    let contexts = documents.iter().flat_map(|document| &document.contexts);
    let context = contexts.into_iter().find(|entry| entry.name == *name).ok_or_else(|| {
        format!(
            "its current-context {name:?} is not among its contexts; choose one of kubectl config get-contexts"
        )
    })?;
    let context = &context.context;
    let clusters = documents.iter().flat_map(|document| &document.clusters);
    let cluster = clusters.into_iter().find(|entry| entry.name == context.cluster).ok_or_else(|| {
        format!(
            "its context uses the cluster {:?}, which is not among its clusters; add it or choose another",
            context.cluster
        )
    })?;
    let users = documents.iter().flat_map(|document| &document.users);
    // As for kubectl, a user that is missing is nobody.
    let user = users.into_iter().find(|entry| entry.name == context.user);
    let user = user.map(|entry| entry.user.clone()).unwrap_or_default();
    let mut cluster = cluster.cluster.clone();
    if let Some(master) = master {
        master.clone_into(&mut cluster.server);
    }
    check_cluster(&context.cluster, &cluster)?;
    check_user(&context.user, &user)?;
    Ok(Chosen { cluster, user, namespace: context.namespace.clone() })
}

fn check_cluster(name: &str, cluster: &Cluster) -> Result<(), String> {
    let authority = is_set(&cluster.certificate_authority);
    if cluster.server.is_empty() {
        return Err("its cluster has no server; add the address of the API".to_owned());
    }
    if authority && !cluster.certificate_authority_data.is_empty() {
        return Err(both("certificate-authority", &format!("cluster {name:?}")));
    }
    if cluster.insecure_skip_tls_verify && (authority || !cluster.certificate_authority_data.is_empty()) {
        return Err(format!(
            "the cluster {name:?} has both a certificate authority and insecure-skip-tls-verify; remove one of them"
        ));
    }
    Ok(())
}

fn check_user(name: &str, user: &User) -> Result<(), String> {
    let of = format!("user {name:?}");
    let certificate = (is_set(&user.client_certificate), !user.client_certificate_data.is_empty());
    let key = (is_set(&user.client_key), !user.client_key_data.is_empty());
    if certificate == (true, true) {
        return Err(both("client-certificate", &of));
    }
    if certificate != (false, false) {
        match key {
            (true, true) => return Err(both("client-key", &of)),
            (false, false) => {
                return Err(format!(
                    "the {of} has a client certificate without a key; add client-key or client-key-data"
                ));
            }
            _ => {}
        }
    }
    let basic = !user.username.is_empty() || !user.password.is_empty();
    if !user.token.is_empty() && basic {
        return Err(format!("the {of} has both a token and a username or password; remove one of them"));
    }
    let acts_as = !user.as_uid.is_empty() || !user.as_groups.is_empty() || !user.as_user_extra.is_empty();
    if acts_as && user.as_user.is_empty() {
        return Err(format!("the {of} has as-uid, as-groups or as-user-extra without as; add as: NAME"));
    }
    if let Some(provider) = &user.auth_provider {
        return Err(format!(
            "the {of} has the auth-provider {:?}, and kubectl has none any more either; have your provider's tool write \
             the kubeconfig again, with an exec plugin or a token",
            provider.name
        ));
    }
    user.exec.as_ref().map_or(Ok(()), |exec| check_exec(&of, exec))
}

fn check_exec(of: &str, exec: &Exec) -> Result<(), String> {
    const GROUP: &str = "client.authentication.k8s.io";
    let wrong = |what: String| Err(format!("the exec plugin of the {of} {what}; correct the file"));
    if exec.command.as_os_str().is_empty() {
        return wrong("has no command".to_owned());
    }
    let version = exec.api_version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/'));
    let (Some("v1beta1") | Some("v1")) = version else {
        return wrong(format!("has the apiVersion {:?}, and not {GROUP}/v1 or v1beta1", exec.api_version));
    };
    if exec.env.iter().any(|variable| variable.name.is_empty()) {
        return wrong("has an environment variable without a name".to_owned());
    }
    match (exec.interactive_mode.as_str(), version) {
        ("Never" | "IfAvailable" | "Always", _) | ("", Some("v1beta1")) => Ok(()),
        (mode, _) => wrong(format!("has the interactiveMode {mode:?}, and not Never, IfAvailable or Always")),
    }
}

fn both(field: &str, of: &str) -> String {
    format!("the {of} has both {field} and {field}-data; remove one of them")
}

fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

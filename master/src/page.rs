//! The live page, `GET /`: one file, which may load and run nothing but itself.

use common::http::Response;
use common::random::random;

/// The page.
const PAGE: &str = include_str!("page/index.html");

/// What its browser may do with it, but for its script: no frame is around it, and it may ask other
/// masters whether they are there.
const POLICY: &[&str] = &[
    "default-src 'none'",
    "style-src 'unsafe-inline'",
    "connect-src 'self' http:",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
];

/// The answer to `GET /`. No script runs but the page's own, which has the nonce of this answer.
pub fn answer() -> Response {
    let nonce = format!("{:016x}{:016x}", random(), random());
    let script = format!("script-src 'nonce-{nonce}'");
    let page = PAGE.replacen("<script>", &format!("<script nonce=\"{nonce}\">"), 1);
    Response::text(200, "text/html; charset=utf-8", page)
        .with_header("Content-Security-Policy", [POLICY, &[&script]].concat().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_no_other_code() {
        assert_eq!(PAGE.matches("<script").count(), 1, "each further one needs the nonce");
        assert!(PAGE.contains("<script>"), "the nonce has no place");
        for code in [" onclick=", " onload=", " onerror=", "javascript:", "eval("] {
            assert!(!PAGE.contains(code), "{code} cannot run under the policy");
        }
    }
}

//! `chasqui password`: lines of a users file.

use crate::support::chasqui;
use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::users::Users;
use std::io::Write;
use std::process::{Output, Stdio};

/// Runs the program with `input` as its standard input.
fn given(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = chasqui();
    command.arg("password").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be started");
    child.stdin.take().expect("stdin is piped").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_line_is_made_of_what_standard_input_says() {
    // Proves: with either scheme the line is a user of a users file whose password is the first line, prepared; and no two are alike.
    let schemes: [&[&str]; 3] = [
        &[],
        &["--scheme", "scram-sha-256", "--stdin"],
        &["--scheme", "scram-sha-256", "--iterations", "4096"],
    ];
    for scheme in schemes {
        let arguments: Vec<&str> = ["ann"].iter().chain(scheme).copied().collect();
        let lines = [0, 1].map(|_| {
            let output = given(&arguments, "pa\u{308}ss w\u{a0}rd \r\nanother\n".as_bytes());
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            String::from_utf8(output.stdout).expect("UTF-8")
        });
        assert_ne!(lines[0], lines[1]);
        for line in lines {
            assert_eq!(line.lines().count(), 1, "{line}");
            let users = Users::parse(&line).expect("a users file");
            let stored = &users.find("ann").expect("the user").stored;
            let word = |text: &str| Password::prepare(text.as_bytes()).expect("a password");
            assert!(
                stored.verify(&word("p\u{e4}ss w rd ")) && !stored.verify(&word("p\u{e4}ss w rd")),
                "{line}"
            );
        }
    }
}

#[test]
fn what_is_no_password_is_told_and_not_shown() {
    // Proves: a password that is empty, too long or not allowed is one line with exit code 2, without a part of it.
    let long = [b'z'; 2000];
    for (input, told) in [
        (&b"\n"[..], "chasqui: the password is empty: choose another\n"),
        (
            b"zz\x07zz\n",
            "chasqui: the password has a character that RFC 4013 (SASLprep) does not allow: choose another\n",
        ),
        (b"zz\xffzz\n", "chasqui: the password is not UTF-8: choose another\n"),
        (&long, "chasqui: the password is too long: choose another\n"),
    ] {
        let output = given(&["ann"], input);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&output.stderr), told);
        assert!(output.stdout.is_empty());
    }
}

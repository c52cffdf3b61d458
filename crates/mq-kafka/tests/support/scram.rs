//! Users of SCRAM, which only a client can make (KIP-554).

use std::{num::NonZeroU32, time::Duration};

use krafka::{
    admin::{
        AlterUserScramCredentialsOptions, DescribeUserScramCredentialsOptions,
        ScramCredentialDeletion, ScramCredentialUpsertion,
    },
    auth::ScramMechanism,
};
use mq_testkit::{Check, Failure};
use ring::{pbkdf2, rand};

use super::{Bare, within};

/// Makes a user who logs in by both mechanisms, or gives it another password.
pub async fn set_user(servers: &str, user: &str, password: &str) -> Check {
    let credential = |mechanism, algorithm, bytes: usize| {
        let salt: [u8; 16] = rand::generate(&rand::SystemRandom::new())
            .map_err(|_| Failure::new("no random numbers"))?
            .expose();
        let mut salted = vec![0; bytes];
        let iterations = NonZeroU32::new(4096).expect("not zero");
        pbkdf2::derive(
            algorithm,
            iterations,
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        Ok::<_, Failure>(ScramCredentialUpsertion {
            name: user.to_owned(),
            mechanism,
            iterations: 4096,
            salt: salt.to_vec().into(),
            salted_password: salted.into(),
        })
    };
    for one in [
        credential(ScramMechanism::Sha256, pbkdf2::PBKDF2_HMAC_SHA256, 32)?,
        credential(ScramMechanism::Sha512, pbkdf2::PBKDF2_HMAC_SHA512, 64)?,
    ] {
        alter(servers, Vec::new(), vec![one]).await?;
    }
    // The broker learns of it from its own log.
    let admin = Bare::connect(servers).await?.admin();
    let known = async {
        loop {
            let options = DescribeUserScramCredentialsOptions::default();
            let users = Some(vec![user.to_owned()]);
            let found = admin
                .describe_user_scram_credentials(users, options)
                .await?;
            if matches!(found.get(user), Some(Ok(both)) if both.len() == 2) {
                return Check::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(20, known).await?
}

pub async fn delete_user(servers: &str, user: &str) -> Check {
    for mechanism in [ScramMechanism::Sha256, ScramMechanism::Sha512] {
        let name = user.to_owned();
        let one = ScramCredentialDeletion { name, mechanism };
        alter(servers, vec![one], Vec::new()).await?;
    }
    Ok(())
}

/// One change: the broker refuses a request that names a user twice, even for two mechanisms.
async fn alter(
    servers: &str,
    deletions: Vec<ScramCredentialDeletion>,
    upsertions: Vec<ScramCredentialUpsertion>,
) -> Check {
    let admin = Bare::connect(servers).await?.admin();
    let options = AlterUserScramCredentialsOptions::default();
    let answers = admin.alter_user_scram_credentials(deletions, upsertions, options);
    for (_, answer) in answers.await? {
        answer?;
    }
    Ok(())
}

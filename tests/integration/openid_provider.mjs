// An OpenID provider (npm `oidc-provider`) on loopback with TLS and new keys at each start. Whoever logs in as NAME+GROUP,GROUP is NAME in these groups.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { Provider } from 'oidc-provider';

const given = JSON.parse(process.argv[2]);
const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });

const provider = new Provider(`https://127.0.0.1:${given.port}`, {
  clients: [
    {
      client_id: given.client_id,
      client_secret: given.client_secret,
      redirect_uris: [given.redirect_uri],
      id_token_signed_response_alg: 'ES256',
    },
  ],
  jwks: { keys: [{ ...jwk, use: 'sig', alg: 'ES256', kid: `key-${process.pid}` }] },
  cookies: { keys: ['a cookie of the test'] },
  pkce: { required: () => true },
  claims: { openid: ['sub'], profile: ['preferred_username', 'groups'], email: ['email'] },
  // What the scopes bring is told in the ID token, or (as most providers do) at the userinfo endpoint only.
  conformIdTokenClaims: !given.claims_in_token,
  findAccount: (_, id) => {
    const [name, groups] = id.split('+');
    return { accountId: id, claims: () => ({ sub: id, preferred_username: name, groups: groups ? groups.split(',') : [] }) };
  },
});

createServer({ key: readFileSync(given.key), cert: readFileSync(given.certificate) }, provider.callback()).listen(given.port, '127.0.0.1', () =>
  console.log('ready'),
);

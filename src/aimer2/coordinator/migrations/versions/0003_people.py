"""people: log-ins and tokens, parts in studies, OpenID, agreements"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.alter_column("role", existing_type=sa.String(length=20), type_=sa.String(length=30), existing_nullable=False)
        batch_op.add_column(sa.Column("site", sa.String(length=63), nullable=True))
        batch_op.add_column(sa.Column("issuer", sa.String(length=500), nullable=True))
        batch_op.add_column(sa.Column("subject", sa.String(length=255), nullable=True))
        batch_op.create_index(batch_op.f("ix_users_issuer_subject"), ["issuer", "subject"], unique=True)
    with op.batch_alter_table("invitations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("made_by", sa.String(length=200), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("revoked", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("revoked_by", sa.String(length=200), nullable=True))
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.add_column(sa.Column("left_by", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("left_reason", sa.Text(), nullable=True))
    op.create_table(
        "sessions",
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=30), nullable=False),
        sa.Column("made", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_sessions")),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sessions_id"), ["id"], unique=True)
        batch_op.create_index(batch_op.f("ix_sessions_user"), ["user"], unique=False)
    op.create_table(
        "login_attempts",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.Column("succeeded", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_login_attempts")),
    )
    op.create_table(
        "openid_logins",
        sa.Column("state_hash", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=128), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("state_hash", name=op.f("pk_openid_logins")),
    )
    with op.batch_alter_table("openid_logins", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_openid_logins_expires"), ["expires"], unique=False)
    op.create_table(
        "study_parts",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("part", sa.String(length=30), nullable=False),
        sa.Column("given_by", sa.String(length=200), nullable=False),
        sa.Column("given", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.digest"], name=op.f("fk_study_parts_study")),
        sa.PrimaryKeyConstraint("study", "user", name=op.f("pk_study_parts")),
    )
    op.create_table(
        "agreements",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=300), nullable=False),
        sa.Column("dated", sa.String(length=10), nullable=False),
        sa.Column("added_by", sa.String(length=200), nullable=False),
        sa.Column("added", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_agreements")),
    )
    op.create_table(
        "acceptances",
        sa.Column("agreement", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("recorded_by", sa.String(length=200), nullable=False),
        sa.Column("accepted", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["agreement"], ["agreements.digest"], name=op.f("fk_acceptances_agreement")),
        sa.ForeignKeyConstraint(["site"], ["sites.site"], name=op.f("fk_acceptances_site")),
        sa.PrimaryKeyConstraint("agreement", "site", name=op.f("pk_acceptances")),
    )


def downgrade() -> None:
    for table in ("acceptances", "agreements", "study_parts", "openid_logins", "login_attempts", "sessions"):
        op.drop_table(table)
    for table, columns in {
        "sites": ("left_by", "left_reason"),
        "invitations": ("made_by", "revoked", "revoked_by"),
        "users": ("site", "issuer", "subject"),
    }.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            if table == "users":
                batch_op.drop_index(batch_op.f("ix_users_issuer_subject"))
            for column in columns:
                batch_op.drop_column(column)

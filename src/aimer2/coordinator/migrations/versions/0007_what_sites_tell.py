"""what sites tell of themselves"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "told",
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["site"], ["sites.site"], name=op.f("fk_told_site_sites")),
        sa.PrimaryKeyConstraint("kind", "site", "subject", name=op.f("pk_told")),
    )


def downgrade() -> None:
    op.drop_table("told")

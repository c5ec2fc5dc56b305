"""freezes"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "freezes",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("frozen", sa.Integer(), nullable=False),
        sa.Column("by", sa.String(length=220), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_freezes")),
    )


def downgrade() -> None:
    op.drop_table("freezes")

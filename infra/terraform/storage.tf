# Bytes: payloads, results and logs of tasks, in one bucket; who asked for what of it and of the load balancer, in
# another.

locals {
  bucket      = "${var.name}-${local.account}-${local.region}"
  logs_bucket = "${local.bucket}-access"

  # Mayfly sweeps by itself. What a flushed cache made it forget goes by age, well after.
  longest_days  = max(var.retention_days, var.dead_letter_retention_days)
  expires       = var.retention_days > 0 && var.dead_letter_retention_days > 0
  leftover_days = ceil(local.longest_days) + 400
  # A task may wait for a year before it ends, with its payload, and results are younger than that. Uploads are good for
  # hours.
  leftovers = merge(
    { "uploads/" = 30 },
    # A task of Fargate has at most a day.
    { for prefix in local.function_prefix : trimsuffix(prefix, "*") => 3 },
    { for prefix in ["payloads/", "results/", "logs/"] : prefix => local.leftover_days if local.expires },
  )
}

resource "aws_s3_bucket" "tasks" {
  bucket        = local.bucket
  force_destroy = !var.deletion_protection

  tags = local.tags
}

resource "aws_s3_bucket" "access" {
  bucket        = local.logs_bucket
  force_destroy = !var.deletion_protection

  tags = local.tags
}

resource "aws_s3_bucket_public_access_block" "tasks" {
  bucket = aws_s3_bucket.tasks.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_public_access_block" "access" {
  bucket = aws_s3_bucket.access.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "tasks" {
  bucket = aws_s3_bucket.tasks.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_ownership_controls" "access" {
  bucket = aws_s3_bucket.access.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "tasks" {
  bucket = aws_s3_bucket.tasks.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_versioning" "access" {
  bucket = aws_s3_bucket.access.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "tasks" {
  bucket = aws_s3_bucket.tasks.id

  rule {
    # One call of KMS for many objects, in place of one for each.
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.data.arn
    }
  }
}

# Load balancers can write to a bucket with S3's own key only.
resource "aws_s3_bucket_server_side_encryption_configuration" "access" {
  bucket = aws_s3_bucket.access.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "tasks" {
  bucket = aws_s3_bucket.tasks.id

  rule {
    id     = "versions"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }

    # What was removed can be had back for a day.
    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  dynamic "rule" {
    for_each = local.leftovers

    content {
      id     = "leftover-${trimsuffix(rule.key, "/")}"
      status = "Enabled"

      filter {
        prefix = rule.key
      }

      expiration {
        days = rule.value
      }
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "access" {
  bucket = aws_s3_bucket.access.id

  rule {
    id     = "age"
    status = "Enabled"

    filter {}

    expiration {
      days = var.log_retention_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_s3_bucket_logging" "tasks" {
  bucket        = aws_s3_bucket.tasks.id
  target_bucket = aws_s3_bucket.access.id
  target_prefix = "s3/"
}

data "aws_iam_policy_document" "tasks_bucket" {
  statement {
    sid     = "OverTlsOnly"
    effect  = "Deny"
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"]

    resources = [aws_s3_bucket.tasks.arn, "${aws_s3_bucket.tasks.arn}/*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "tasks" {
  bucket = aws_s3_bucket.tasks.id
  policy = data.aws_iam_policy_document.tasks_bucket.json

  depends_on = [aws_s3_bucket_public_access_block.tasks]
}

data "aws_iam_policy_document" "access_bucket" {
  statement {
    sid       = "LoadBalancer"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.access.arn}/balancer/AWSLogs/${local.account}/*"]

    principals {
      type        = "Service"
      identifiers = ["logdelivery.elasticloadbalancing.amazonaws.com"]
    }
  }

  statement {
    sid       = "Buckets"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.access.arn}/s3/*"]

    principals {
      type        = "Service"
      identifiers = ["logging.s3.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_s3_bucket_policy" "access" {
  bucket = aws_s3_bucket.access.id
  policy = data.aws_iam_policy_document.access_bucket.json

  depends_on = [aws_s3_bucket_public_access_block.access]
}
